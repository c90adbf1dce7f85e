// The page: what is shown now, and what people do with it.

import { parseMap } from "./colours.js";
import { Connection } from "./connection.js";
import { drawHistogram } from "./histogram.js";
import { duration, millimetres, number } from "./numbers.js";
import { showAccount, showBackground, showFrame, showPercentiles, showService } from "./panels.js";
import { Picture } from "./picture.js";
import { PROJECTION, halfWidth, largest, planeOf, smallest } from "./planes.js";
import { listSnapshots, takeSnapshot } from "./snapshots.js";
import { Strip } from "./strip.js";

const UNIT = "1 = calibration sample";
const CLOCK_MS = 250; // how often ages are looked at when nothing comes

const byId = (id) => document.getElementById(id);

if (location.search) {
  history.replaceState(null, "", location.pathname); // the token is in a cookie now, and out of sight
}

const facts = await (await fetch("/page.json")).json();
const maps = Object.fromEntries(Object.entries(facts.colour_maps).map(([name, text]) => [name, parseMap(text)]));
const mapNames = Object.keys(maps);

const state = {
  figures: null, // of the newest message
  heardAt: -Infinity, // when it came
  isPaused: false,
  shown: null, // the frame on the screen
  newest: null, // the newest that came
  mapName: mapNames[0],
  slice: PROJECTION,
  fixedTop: null,
  cursor: null, // {x, y} that values are read at
  isPinned: false, // whether it stays when the pointer leaves
};

const image = new Picture(byId("concentration"));
const uncertainty = new Picture(byId("uncertainty"));
const strip = new Strip(byId("strip"), facts, lookAt);
const pictures = byId("pictures");

// What comes

let isDrawing = false;

function onMessage(message) {
  state.figures = message.figures;
  state.heardAt = performance.now();
  if (message.image && !state.isPaused) {
    state.newest = message.image;
    state.shown = message.image;
    strip.push(message.image);
  }
  if (!isDrawing) {
    isDrawing = true;
    requestAnimationFrame(() => {
      isDrawing = false;
      try {
        draw(false);
      } finally {
        connection.send({ shown: state.figures.message }); // whatever happens here, the next message is wanted
      }
    });
  }
}

function onChange() {
  if (connection?.isOpen) {
    state.heardAt = performance.now();
    connection.send({ paused: state.isPaused });
    listSnapshots().catch(() => {});
  }
  showSituation();
}

// What the page says about itself

function age() {
  const known = state.figures?.image_age_s;
  return known === null || known === undefined ? null : known + (performance.now() - state.heardAt) / 1e3;
}

/** Return [kind, word, detail]: whether what is on the screen is live, and if not, why. */
function situation() {
  const silence = (performance.now() - state.heardAt) / 1e3;
  if (!connection?.isOpen || silence > facts.stale_s) {
    return ["lost", "PAGE DISCONNECTED", "engine view does not answer; trying again"];
  }
  if (!state.figures) {
    return ["waiting", "CONNECTING", ""];
  }
  const { connected, source, status } = state.figures;
  if (!connected) {
    return ["unreachable", "SERVICE NOT REACHABLE", `nothing answers at ${source}; trying again`];
  }
  const service = status && status.state !== "running" ? `; the service is ${status.state}` : "";
  const seconds = age();
  if (seconds === null) {
    return ["waiting", "WAITING", `for the first frame${service}`];
  }
  if (seconds > facts.stale_s) {
    return ["silent", "NO FRAMES", `for ${duration(seconds)}${service}`];
  }
  return ["live", "LIVE", service.slice(2)];
}

function showSituation() {
  let [kind, word, detail] = situation();
  const isOld = kind !== "live" && !state.isPaused;
  if (state.isPaused) {
    const trouble = kind === "live" ? `${state.figures.images - state.shown.number} newer images` : `${word.toLowerCase()} ${detail}`;
    [kind, word, detail] = ["paused", "PAUSED", `at frame ${state.shown.report.sequence}; ${trouble}`];
  }
  if (byId("state").dataset.kind !== kind) {
    byId("announcer").textContent = `${word.toLowerCase()} ${kind === "live" ? "" : detail}`;
  }
  byId("state").dataset.kind = kind;
  byId("state-word").textContent = word;
  byId("state-detail").textContent = detail;
  document.title = `${word} – DEQ-MPI`;
  pictures.classList.toggle("old", isOld);
  const seconds = age();
  byId("banner").hidden = !isOld || !state.shown;
  byId("banner").textContent = `${word}\nlast image${seconds === null ? "" : `, ${duration(seconds)} old`}`;
}

// Drawing

function scaleTop() {
  if (state.fixedTop !== null) {
    return state.fixedTop;
  }
  return Math.max(0, ...strip.frames.map((frame) => (frame.largest ??= largest(frame.image))));
}

function limits(frame) {
  const bottom = Math.min(0, (frame.smallest ??= smallest(frame.image)));
  const top = scaleTop();
  return [bottom, top > bottom ? top : bottom + 1];
}

function draw(isUrgent) {
  const frame = state.shown;
  showSituation();
  byId("placeholder").hidden = Boolean(frame);
  byId("concentration").hidden = !frame;
  if (frame) {
    drawFrame(frame);
    const look = { slice: state.slice, limits: limits(frame), map: maps[state.mapName] };
    strip.draw(frame, look, state.isPaused, isUrgent);
  }
  if (state.figures) {
    const { latency, deadline_ms: deadline, background } = state.figures;
    showAccount(state.figures, facts);
    showBackground(background);
    showService(state.figures);
    showPercentiles(latency);
    drawHistogram(byId("histogram"), latency, deadline);
  }
}

function drawFrame(frame) {
  offerSlices(frame);
  const plane = planeOf(frame, state.slice);
  const half = halfWidth(plane);
  // Frames that the deadline ended have no interval: the place stays, so that nothing jumps from frame to frame.
  byId("uncertainty").hidden = !half && !strip.frames.some((other) => other.low);
  arrangeFor(frame);
  const map = maps[state.mapName];
  const [bottom, top] = limits(frame);
  const over = frame.largest > top || largest(plane.value) > top
    ? plane.value.reduce((n, value) => n + (value > top), 0) : 0;
  image.caption.textContent = `Concentration, ${UNIT}${over ? ` – ${over} voxels above the scale` : ""}`;
  image.draw(plane.value, plane, [bottom, top], map);
  if (half) {
    const most = Math.max(0, ...strip.frames.map((other) => (other.widest ??= widest(other))));
    uncertainty.caption.textContent = `Half-width of the ${number(100 * frame.interval_coverage)} % interval, ${UNIT}`;
    uncertainty.draw(half, plane, [0, most || 1], map);
  } else {
    uncertainty.caption.textContent = "No interval for this frame";
    uncertainty.clear();
  }
  const place = state.cursor && { x: Math.min(state.cursor.x, plane.nx - 1), y: Math.min(state.cursor.y, plane.ny - 1) };
  image.point(place, plane);
  uncertainty.point(half && place, plane);
  read(frame, plane, place);
  showFrame(frame, state.isPaused ? [frame] : strip.frames, facts);
}

function widest(frame) {
  return frame.low ? frame.high.reduce((most, high, index) => Math.max(most, (high - frame.low[index]) / 2), 0) : 0;
}

function read(frame, plane, place) {
  if (!place) {
    byId("reading").textContent = "Point at the image to read values.";
    return;
  }
  const index = place.y * plane.nx + place.x;
  const at = [place.x, place.y, plane.sliceAt(index)];
  const [nz, ny, nx] = frame.shape;
  const where = [nx, ny, nz].map((n, axis) => {
    const extent = frame.field_of_view[axis];
    return millimetres(frame.center[axis] - extent / 2 + ((at[axis] + 0.5) * extent) / n);
  });
  const bounds = plane.low ? ` [${number(plane.low[index])}, ${number(plane.high[index])}]` : "";
  byId("reading").textContent = `(${where.join(", ")}) mm: ${number(plane.value[index])}${bounds}`;
}

function offerSlices(frame) {
  const [nz] = frame.shape;
  const select = byId("slice");
  byId("slice-tool").hidden = nz === 1;
  if (select.options.length === nz + 1) {
    return;
  }
  const extent = frame.field_of_view[2];
  const heights = Array.from({ length: nz }, (_, z) => frame.center[2] - extent / 2 + ((z + 0.5) * extent) / nz);
  select.replaceChildren(
    new Option("largest along z", String(PROJECTION)),
    ...heights.map((z, index) => new Option(`${index + 1} of ${nz}: z = ${millimetres(z)} mm`, String(index))),
  );
  state.slice = PROJECTION;
}

const oneColumn = window.matchMedia("(max-width: 860px)"); // as in style.css
const ONE_COLUMN_SHARE = 0.7; // of the screen's height, for the pictures

let arrangedFor = "";

/** Give the pictures the largest size that fits, beside or above each other. */
function arrangeFor(frame) {
  const width = pictures.clientWidth;
  const height = oneColumn.matches ? ONE_COLUMN_SHARE * window.innerHeight : pictures.clientHeight;
  const isDouble = !byId("uncertainty").hidden;
  const key = [width, height, isDouble, frame.shape, frame.field_of_view, window.devicePixelRatio].join(" ");
  if (key === arrangedFor) {
    return;
  }
  const gap = 26; // CSS pixels between two pictures, and their outlines
  const beside = Picture.scaleFor(frame, isDouble ? (width - gap) / 2 : width, height);
  const stacked = isDouble ? Picture.scaleFor(frame, width, (height - gap) / 2) : 0;
  pictures.classList.toggle("stacked", stacked > beside);
  image.resize(frame, Math.max(beside, stacked));
  uncertainty.resize(frame, Math.max(beside, stacked));
  arrangedFor = key;
}

// What people do

function pause(isPaused) {
  if (isPaused && !state.shown) {
    return;
  }
  state.isPaused = isPaused;
  connection.send({ paused: isPaused });
  if (!isPaused) {
    state.shown = state.newest;
  }
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  byId("pause-word").textContent = isPaused ? "Go live" : "Pause";
  draw(true);
}

function lookAt(frame) {
  if (!frame) {
    return;
  }
  state.shown = frame;
  if (!state.isPaused) {
    pause(true);
  }
  draw(true);
  byId("announcer").textContent = `frame ${frame.report.sequence}`;
}

function step(places) {
  if (state.shown) {
    lookAt(strip.neighbour(state.shown, places));
  }
}

function chooseSlice(slice) {
  const last = byId("slice").options.length - 2;
  if (last > 0) {
    state.slice = Math.max(PROJECTION, Math.min(last, slice));
    byId("slice").value = String(state.slice);
    draw(true);
  }
}

function chooseMap(name) {
  state.mapName = name;
  byId("map").value = name;
  draw(true);
}

function fixScale(top) {
  state.fixedTop = top !== null && Number.isFinite(top) && top > 0 ? top : null;
  byId("top").value = state.fixedTop === null ? "" : number(state.fixedTop);
  byId("fix").setAttribute("aria-pressed", String(state.fixedTop !== null));
  draw(true);
}

function moveCursor(right, up) {
  if (!state.shown) {
    return;
  }
  const [, ny, nx] = state.shown.shape;
  const from = state.cursor ?? { x: Math.floor(nx / 2), y: Math.floor(ny / 2) };
  state.cursor = state.cursor
    ? { x: Math.max(0, Math.min(nx - 1, from.x + right)), y: Math.max(0, Math.min(ny - 1, from.y + up)) }
    : from;
  state.isPinned = true;
  draw(false);
  byId("announcer").textContent = byId("reading").textContent;
}

const KEYS = {
  " ": () => pause(!state.isPaused),
  s: () => takeSnapshot("png", state.shown),
  m: () => takeSnapshot("mdf", state.shown),
  n: () => takeSnapshot("nii", state.shown),
  c: () => chooseMap(mapNames[(mapNames.indexOf(state.mapName) + 1) % mapNames.length]),
  f: () => fixScale(state.fixedTop === null ? scaleTop() : null),
  "?": () => byId("help").showModal(),
  Escape: () => { state.cursor = null; draw(false); },
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  ArrowUp: () => chooseSlice(state.slice + 1),
  ArrowDown: () => chooseSlice(state.slice - 1),
};

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || target.matches("input, select")) {
    return;
  }
  if (event.key === " " && target.matches("button, a") && target.checkVisibility()) {
    return; // the button does what it says; a dialog that was just closed may still have the focus
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = event.shiftKey && MOVES[key] ? () => moveCursor(...MOVES[key]) : KEYS[key];
  if (action && !(event.repeat && key.length === 1)) {
    event.preventDefault();
    action();
  }
});

// After a click the space bar is for pausing again; people at the keyboard keep their place.
document.addEventListener("click", (event) => {
  if (event.detail > 0) {
    event.target.closest("button")?.blur();
  }
});

byId("pause").addEventListener("click", () => pause(!state.isPaused));
byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("fix").addEventListener("click", () => KEYS.f());
byId("top").addEventListener("change", (event) => fixScale(event.target.value === "" ? null : event.target.valueAsNumber));
byId("slice").addEventListener("change", (event) => chooseSlice(Number(event.target.value)));
byId("map").addEventListener("change", (event) => chooseMap(event.target.value));
document.querySelectorAll("[data-snapshot]").forEach((button) => {
  button.addEventListener("click", () => takeSnapshot(button.dataset.snapshot, state.shown));
});

for (const picture of [image, uncertainty]) {
  const follow = (event) => {
    if (state.shown) {
      state.cursor = picture.voxelAt(event, planeOf(state.shown, state.slice));
      draw(false);
    }
  };
  picture.canvas.addEventListener("pointermove", (event) => state.isPinned || follow(event));
  picture.canvas.addEventListener("pointerdown", (event) => { state.isPinned = !state.isPinned; follow(event); });
  picture.canvas.addEventListener("pointerleave", () => {
    if (!state.isPinned) {
      state.cursor = null;
      draw(false);
    }
  });
}

byId("map").replaceChildren(...mapNames.map((name) => new Option(name === "gray" ? "grey" : name, name)));
window.addEventListener("resize", () => draw(true));

let connection = null;
connection = new Connection(onMessage, onChange);
setInterval(showSituation, CLOCK_MS);
