// What of a volume is shown: one slice, or the largest values along z with the bounds of those very voxels.

/** Slice number of the projection. */
export const PROJECTION = -1;

/** Return {nx, ny, value, low, high, slice} of one plane, x fastest, y upwards; low and high may be null. */
export function planeOf(frame, slice) {
  frame.planes ??= new Map();
  if (!frame.planes.has(slice)) {
    frame.planes.set(slice, makePlane(frame, slice));
  }
  return frame.planes.get(slice);
}

function makePlane(frame, wanted) {
  const [nz, ny, nx] = frame.shape;
  const n = nx * ny;
  const only = nz === 1 ? 0 : wanted;
  if (only !== PROJECTION) {
    const cut = (values) => (values ? values.subarray(only * n, (only + 1) * n) : null);
    return { nx, ny, value: cut(frame.image), low: cut(frame.low), high: cut(frame.high), sliceAt: () => only };
  }
  const slices = new Uint16Array(n);
  for (let z = 1; z < nz; z += 1) {
    for (let i = 0; i < n; i += 1) {
      if (frame.image[z * n + i] > frame.image[slices[i] * n + i]) {
        slices[i] = z;
      }
    }
  }
  const gather = (values) => (values ? Float32Array.from(slices, (z, i) => values[z * n + i]) : null);
  return {
    nx, ny, value: gather(frame.image), low: gather(frame.low), high: gather(frame.high), sliceAt: (i) => slices[i],
  };
}

/** Return half of high - low of a plane; null without an interval. */
export function halfWidth(plane) {
  if (!plane.low) {
    return null;
  }
  plane.half ??= plane.high.map((high, index) => (high - plane.low[index]) / 2);
  return plane.half;
}

export function largest(values) {
  return values.reduce((most, value) => (value > most ? value : most), -Infinity);
}

export function smallest(values) {
  return values.reduce((least, value) => (value < least ? value : least), Infinity);
}
