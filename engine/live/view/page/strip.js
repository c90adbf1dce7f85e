// The strip of recent frames: small pictures, redrawn a few times a second, to look at when the page is paused.

import { paint } from "./colours.js";
import { planeOf } from "./planes.js";

const PERIOD_MS = 200;
const QUIET_PERIOD_MS = 2000; // for people who asked for less motion

export class Strip {
  constructor(list, facts, onChoose) {
    this.list = list;
    this.facts = facts;
    this.frames = [];
    this.drawnAt = -Infinity;
    this.quiet = window.matchMedia("(prefers-reduced-motion: reduce)");
    list.addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (item) {
        onChoose(this.frames.find((frame) => frame.number === Number(item.dataset.number)));
      }
    });
  }

  push(frame) {
    this.frames.push(frame);
    const size = frame.image.byteLength * frame.arrays.length;
    const limit = Math.max(1, Math.min(this.facts.strip_length, Math.floor(this.facts.strip_bytes / size)));
    this.frames.splice(0, this.frames.length - limit);
  }

  clear() {
    this.frames = [];
  }

  /** Return the frame that stands so many places from another, or the nearest there is. */
  neighbour(frame, step) {
    const index = this.frames.findIndex((other) => other.number === frame.number) + step;
    return this.frames[Math.max(0, Math.min(this.frames.length - 1, index))];
  }

  draw(shown, look, isPaused, isUrgent) {
    const now = performance.now();
    if (!isUrgent && now - this.drawnAt < (this.quiet.matches ? QUIET_PERIOD_MS : PERIOD_MS)) {
      return;
    }
    this.drawnAt = now;
    while (this.list.children.length < this.frames.length) {
      this.list.append(newItem());
    }
    while (this.list.children.length > this.frames.length) {
      this.list.lastElementChild.remove();
    }
    this.frames.forEach((frame, index) => this.drawItem(this.list.children[index], frame, shown, look));
    this.reveal(isPaused);
    const selected = shown ? `recent-${shown.number}` : "";
    this.list.setAttribute("aria-activedescendant", selected);
  }

  /** Where the strip is wider than the screen: show the newest frames, or the one that is looked at. */
  reveal(isPaused) {
    const place = this.list.parentElement;
    const item = this.list.querySelector('[aria-selected="true"]');
    if (!isPaused || !item) {
      place.scrollLeft = place.scrollWidth;
    } else if (item.offsetLeft < place.scrollLeft || item.offsetLeft + item.offsetWidth > place.scrollLeft + place.clientWidth) {
      place.scrollLeft = item.offsetLeft - place.clientWidth / 2;
    }
  }

  drawItem(item, frame, shown, look) {
    const plane = planeOf(frame, look.slice);
    paint(item.firstElementChild, plane.value, plane.nx, plane.ny, look.limits, look.map);
    const flags = frame.report.flags.map((flag) => this.facts.flags[flag]?.[0] ?? flag);
    item.id = `recent-${frame.number}`;
    item.dataset.number = frame.number;
    item.lastElementChild.textContent = flags.length ? "▲" : "";
    item.title = [`frame ${frame.report.sequence}`, ...flags].join(", ");
    item.setAttribute("aria-label", item.title);
    item.setAttribute("aria-selected", String(Boolean(shown) && frame.number === shown.number));
  }
}

function newItem() {
  const item = document.createElement("li");
  item.setAttribute("role", "option");
  item.append(document.createElement("canvas"), document.createElement("b"));
  return item;
}
