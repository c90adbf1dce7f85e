// Values to colours: 256 steps from the bottom to the top of the scale, as matplotlib does it.

const STEPS = 256;

/** Turn a text of 256 "rrggbb" into opaque RGBA bytes. */
export function parseMap(text) {
  const colours = new Uint8ClampedArray(4 * STEPS);
  for (let step = 0; step < STEPS; step += 1) {
    for (let part = 0; part < 3; part += 1) {
      colours[4 * step + part] = parseInt(text.slice(6 * step + 2 * part, 6 * step + 2 * part + 2), 16);
    }
    colours[4 * step + 3] = 255;
  }
  return colours;
}

/** Paint a plane with one canvas pixel per voxel; the first row is at the bottom. */
export function paint(canvas, values, nx, ny, [bottom, top], map) {
  if (canvas.width !== nx || canvas.height !== ny) {
    canvas.width = nx;
    canvas.height = ny;
  }
  const context = canvas.getContext("2d");
  const picture = context.createImageData(nx, ny);
  const factor = STEPS / (top > bottom ? top - bottom : 1);
  for (let y = 0; y < ny; y += 1) {
    let target = 4 * (ny - 1 - y) * nx;
    for (let x = 0; x < nx; x += 1, target += 4) {
      const step = Math.floor((values[y * nx + x] - bottom) * factor);
      const source = 4 * Math.max(0, Math.min(STEPS - 1, Number.isNaN(step) ? 0 : step));
      picture.data.set(map.subarray(source, source + 4), target);
    }
  }
  context.putImageData(picture, 0, 0);
}

/** Paint the colours themselves, top of the scale at the top. */
export function paintBar(canvas, map) {
  paint(canvas, Float32Array.from({ length: STEPS }, (_, step) => step + 0.5), 1, STEPS, [0, STEPS], map);
}
