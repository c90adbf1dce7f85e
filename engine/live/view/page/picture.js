// One picture of the page: magnified voxels, colour bar, scale bar in millimetres, cursor.

import { paint, paintBar } from "./colours.js";
import { number } from "./numbers.js";

const BAR_WIDTH = 84; // CSS pixels beside the voxels, as in style.css
const CAPTIONS = 50; // above and below them
const RULER_SHARE = 0.3; // of the width, at most

export class Picture {
  constructor(figure) {
    this.figure = figure;
    this.canvas = figure.querySelector(".field canvas");
    this.cursor = figure.querySelector(".cursor");
    this.bar = figure.querySelector(".bar canvas");
    this.labels = [...figure.querySelectorAll(".bar li")];
    this.caption = figure.querySelector("figcaption");
    this.ruler = figure.querySelector(".ruler");
    this.rulerText = figure.querySelector(".ruler-text");
    this.shownMap = null;
  }

  draw(values, plane, limits, map) {
    paint(this.canvas, values, plane.nx, plane.ny, limits, map);
    if (this.shownMap !== map) {
      paintBar(this.bar, map);
      this.shownMap = map;
    }
    const [bottom, top] = limits;
    [top, (top + bottom) / 2, bottom].forEach((value, index) => {
      this.labels[index].textContent = number(value);
    });
  }

  /** Show nothing, rather than what another frame left. */
  clear() {
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Return the CSS pixels per millimetre that fit into a place of this size. */
  static scaleFor(frame, width, height) {
    const [across, up] = frame.field_of_view.map((extent) => 1e3 * extent);
    return Math.max(0.01, Math.min((width - BAR_WIDTH) / across, (height - CAPTIONS) / up));
  }

  /** Give the canvas its size: whole device pixels per voxel where voxels are square. */
  resize(frame, scale) {
    const [, ny, nx] = frame.shape;
    const [across, up] = frame.field_of_view.map((extent) => 1e3 * extent);
    const ratio = window.devicePixelRatio;
    const isSquare = Math.abs(across / nx - up / ny) < 1e-6 * (across / nx);
    const voxel = Math.floor((scale * ratio * across) / nx);
    const final = isSquare && voxel >= 1 ? (voxel * nx) / ratio / across : scale;
    this.width = final * across;
    this.height = final * up;
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.bar.style.height = `${this.height}px`;
    const length = rulerLength(RULER_SHARE * across);
    this.ruler.style.width = `${length * final}px`;
    this.rulerText.textContent = `${length} mm`;
  }

  /** Frame the voxel (x, y), or none. */
  point(place, plane) {
    this.cursor.hidden = !place;
    if (place) {
      const [width, height] = [this.width / plane.nx, this.height / plane.ny];
      Object.assign(this.cursor.style, {
        left: `${place.x * width}px`,
        top: `${(plane.ny - 1 - place.y) * height}px`,
        width: `${width}px`,
        height: `${height}px`,
      });
    }
  }

  /** Return the voxel under a pointer. */
  voxelAt(event, plane) {
    const box = this.canvas.getBoundingClientRect();
    const clamp = (value, n) => Math.max(0, Math.min(n - 1, Math.floor(value * n)));
    return {
      x: clamp((event.clientX - box.left) / box.width, plane.nx),
      y: clamp(1 - (event.clientY - box.top) / box.height, plane.ny),
    };
  }
}

/** Return the largest of 1, 2, 5 times a power of ten that is at most `longest` millimetres. */
function rulerLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  const step = [5, 2, 1].find((candidate) => candidate * power <= longest) ?? 1;
  return Number((step * power).toPrecision(1));
}
