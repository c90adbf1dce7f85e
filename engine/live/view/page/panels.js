// The figures beside the image. All text goes in as text, never as markup.

import { bytes, count, duration, number } from "./numbers.js";

const RATE_WINDOW_MS = 3000;
const UNDONE = ["refused", "rolled-back"]; // swaps that changed nothing
const CLAMPED = "interval-clamped"; // a key of the report, shown as if it were a flag
const CLAMPED_WORDS = ["interval", "the SNR is outside the calibrated range; below it the bounds are too narrow"];

const byId = (id) => document.getElementById(id);

/** Fill a list of pairs: [name, value, class]. Elements are kept, so that nothing is selected away. */
function fill(list, pairs) {
  while (list.children.length < 2 * pairs.length) {
    list.append(document.createElement("dt"), document.createElement("dd"));
  }
  while (list.children.length > 2 * pairs.length) {
    list.lastElementChild.remove();
  }
  pairs.forEach(([name, value, kind = ""], index) => {
    list.children[2 * index].textContent = name;
    list.children[2 * index + 1].textContent = value;
    list.children[2 * index + 1].className = kind;
  });
}

/** Show a frame's figures, and its flags among those of the recent frames. */
export function showFrame(frame, recent, facts) {
  const report = frame.report;
  const range = report.n_frames > 1 ? `${report.first_sequence}–${report.sequence}` : String(report.sequence);
  byId("sequence").textContent = range;
  showFlags(frame, recent, facts);
  fill(byId("frame"), [
    ["latency", `${number(report.latency_ms)} ms`, report.flags.includes("late") ? "warn" : ""],
    ["waited", `${number(report.waited_ms)} ms`],
    ["iterations", count(report.iterations)],
    ["converged", report.converged ? "yes" : "no", report.converged ? "" : "warn"],
    ["residual", number(report.residual_ratio), report.flags.includes("residual") ? "warn" : ""],
    ["SNR", report.snr_db === null || report.snr_db === undefined ? "–" : `${number(report.snr_db)} dB`],
  ]);
}

/** List the flags of the recent frames, so that what comes and goes can be read; those of this frame are marked. */
function showFlags(frame, recent, facts) {
  const seen = new Map(Object.keys(facts.flags).map((flag) => [flag, 0]));
  for (const { report } of recent) {
    for (const flag of report.interval_clamped ? [...report.flags, CLAMPED] : report.flags) {
      seen.set(flag, (seen.get(flag) ?? 0) + 1);
    }
  }
  const { report } = frame;
  const items = [...seen].filter(([, n]) => n).map(([flag, n]) => {
    const isNow = report.flags.includes(flag) || (flag === CLAMPED && report.interval_clamped);
    const [words, meaning] = flag === CLAMPED ? CLAMPED_WORDS : (facts.flags[flag] ?? [flag, ""]);
    const more = flag === "saturated" && isNow ? ` (${channels(report.saturated_channels)})` : "";
    return flagItem(words, meaning + more, isNow, recent.length > 1 ? `${n} of ${recent.length}` : "");
  });
  byId("flags").replaceChildren(...(items.length ? items : [noFlags()]));
}

function channels(list) {
  return Array.isArray(list) && list.length ? `channel ${list.join(", ")}` : "channel unknown";
}

function flagItem(words, meaning, isNow, share) {
  const item = document.createElement("li");
  item.className = isNow ? "now" : "";
  const parts = [["b", `${isNow ? "▲" : "△"} ${words}`], ["i", share], ["span", meaning]];
  for (const [tag, text] of parts) {
    const part = document.createElement(tag);
    part.textContent = text;
    item.append(part);
  }
  return item;
}

function noFlags() {
  const item = document.createElement("li");
  item.className = "none";
  item.textContent = "● nothing to note";
  return item;
}

const history = [];

function rate(counters) {
  const now = performance.now();
  const last = history.at(-1);
  if (last && counters.frames_in < last.frames_in) {
    history.length = 0;
  }
  history.push({ at: now, frames_in: counters.frames_in, images_out: counters.images_out });
  while (now - history[0].at > RATE_WINDOW_MS) {
    history.shift();
  }
  const seconds = (now - history[0].at) / 1e3;
  if (seconds < 1) {
    return "";
  }
  const per = (key) => ((counters[key] - history[0][key]) / seconds).toFixed(1);
  return `${per("frames_in")} in, ${per("images_out")} out per second`;
}

export function showAccount(figures, facts) {
  const counters = figures.counters;
  if (!counters) {
    return;
  }
  const reasons = Object.entries(counters.dropped).filter(([, n]) => n);
  const dropped = reasons.reduce((sum, [, n]) => sum + n, 0);
  const rejected = Object.entries(counters.rejected).filter(([, n]) => n);
  const malformed = Object.entries(figures.malformed);
  const list = (entries, words) => entries.map(([key, n]) => `${count(n)} ${words?.[key] ?? key}`).join(", ");
  byId("rates").textContent = rate(counters);
  fill(byId("account"), [
    ["frames in", count(counters.frames_in)],
    ["images", count(counters.images_out)],
    ["averaged", count(counters.averaged)],
    ["in flight", count(counters.in_flight)],
    ["late", count(counters.late), counters.late ? "warn" : ""],
    ["not converged", count(counters.not_converged), counters.not_converged ? "warn" : ""],
    ["background frames", count(counters.background_in)],
    ["not drawn here", count(figures.skipped)],
    ["dropped", reasons.length ? list(reasons, facts.drops) : "0", reasons.length ? "wide warn" : "wide"],
    ["rejected", rejected.length ? list(rejected) : "0", rejected.length ? "wide warn" : "wide"],
    ...(malformed.length ? [["not readable", list(malformed), "wide bad"]] : []),
  ]);
  const sum = counters.images_out + counters.averaged + dropped + counters.in_flight;
  const balanced = sum === counters.frames_in;
  const parts = [counters.images_out, counters.averaged, dropped, counters.in_flight].map(count).join(" + ");
  byId("balance").className = balanced ? "good" : "bad";
  byId("balance").textContent = balanced
    ? `✓ adds up: ${count(counters.frames_in)} = ${parts}`
    : `✗ ${count(counters.frames_in)} frames in, but ${parts} = ${count(sum)}`;
}

export function showBackground(background) {
  if (!background) {
    return;
  }
  const none = background.n_frames === 0;
  fill(byId("background"), [
    ["frames", none ? "none, nothing subtracted" : count(background.n_frames), none ? "wide warn" : ""],
    ...(none ? [] : [
      ["age", duration(background.age_s)],
      ["noise", background.sigma === null ? "–" : `${number(background.sigma)} σ`],
      ["drift", background.drift === null ? "–" : `${number(background.drift)} σ`],
    ]),
  ]);
}

export function showService(figures) {
  const status = figures.status ?? {};
  const pairs = [
    ["state", status.state ?? "–", status.state && status.state !== "running" ? "warn" : ""],
    ["up", duration(status.uptime_s)],
    ["method", status.method ?? "–"],
    ["model", status.model ?? "–"],
    ["policy", status.policy ?? "–"],
    ["operators", (status.operators_sha256 ?? "–").slice(0, 8)],
    ["recording", ...recording(status)],
  ];
  if (status.swap) {
    const words = [status.swap.state, status.swap.reason].filter(Boolean).join(": ");
    pairs.push(["swap", words, UNDONE.includes(status.swap.state) ? "wide warn" : "wide"]);
  }
  pairs.push(["source", figures.source, "wide"]);
  fill(byId("service"), pairs);
}

/** The words for a recording, and their class: how it stands, where, how much, and what was lost. */
function recording(status) {
  const found = status.recording;
  if (!found) {
    return [status.state ? "off" : "–", "wide"];
  }
  const lost = (found.frames_lost ?? 0) + (found.images_lost ?? 0);
  const words = [
    found.state ?? "on",
    found.reason,
    found.files?.at(-1),
    found.frames_written === undefined ? "" : `${count(found.frames_written)} frames`,
    found.images_written === undefined ? "" : `${count(found.images_written)} images`,
    lost ? `${count(lost)} lost` : "",
    Number.isFinite(found.free_bytes) ? `${bytes(found.free_bytes)} free` : "",
  ];
  return [words.filter(Boolean).join(", "), found.state === "recording" && !lost ? "wide" : "wide bad"];
}

export function showPercentiles(latency) {
  byId("percentiles").textContent = latency.n
    ? `p50 ${number(latency.p50_ms)}, p99 ${number(latency.p99_ms)}, max ${number(latency.max_ms)} ms`
    : "";
}
