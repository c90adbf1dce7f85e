// Snapshots: ask the server for a file of the image shown, and list what there is.

import { bytes } from "./numbers.js";

const message = document.getElementById("snapshot-message");
const list = document.getElementById("snapshots");

const SHOWN_MS = 8000;
const SHOWN_BAD_MS = 30000;

let timer = 0;

function say(text, isBad = false) {
  message.className = isBad ? "bad" : "";
  message.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => message.replaceChildren(), isBad ? SHOWN_BAD_MS : SHOWN_MS);
}

export async function takeSnapshot(kind, frame) {
  if (!frame) {
    say("There is no image yet.", true);
    return;
  }
  say(`Writing frame ${frame.report.sequence} …`);
  try {
    const answer = await fetch("/snapshots", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ kind, image: frame.number }),
    });
    if (!answer.ok) {
      const text = await answer.text();
      say(`Not written: ${answer.headers.get("Content-Type")?.startsWith("application/json") ? JSON.parse(text).error : text}`, true);
      return;
    }
    const snapshot = await answer.json();
    say(`Frame ${snapshot.sequence} written as ${snapshot.name}`);
    await listSnapshots();
  } catch (error) {
    say(`Not written: the server does not answer (${error.message})`, true);
  }
}

export async function listSnapshots() {
  const found = await (await fetch("/snapshots")).json();
  list.replaceChildren(...found.reverse().map((snapshot) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = snapshot.url;
    link.download = snapshot.name;
    link.textContent = snapshot.name;
    item.append(link, `frame ${snapshot.sequence}, ${bytes(snapshot.bytes)}`);
    return item;
  }));
}
