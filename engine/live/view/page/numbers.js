// Numbers as people read them.

const COUNT = new Intl.NumberFormat("en-GB");

/** Three significant digits. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) {
    return "–";
  }
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

export function count(value) {
  return Number.isFinite(value) ? COUNT.format(value) : "–";
}

/** Whole seconds as "4 s", "12 min" or "3 h 5 min". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) {
    return "–";
  }
  if (seconds < 120) {
    return `${Math.floor(seconds)} s`;
  }
  const minutes = Math.floor(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(n) {
  const [unit, size] = [["GB", 1e9], ["MB", 1e6]].find(([, least]) => n >= least) ?? ["kB", 1e3];
  return `${(n / size).toFixed(1)} ${unit}`;
}

export function millimetres(metres) {
  return (1e3 * metres).toFixed(1).replace("-", "−");
}
