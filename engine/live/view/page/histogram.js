// The latency histogram with the deadline as a line.

import { count, number } from "./numbers.js";

const FOOT = 18; // CSS pixels below the axis
const HEAD = 16; // above the bars, for the name of the line

export function drawHistogram(canvas, latency, deadline) {
  const ratio = window.devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !latency.counts) {
    return;
  }
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  context.scale(ratio, ratio);
  context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const bars = [...latency.counts, latency.above];
  const most = Math.max(1, ...bars);
  const barWidth = width / bars.length;
  const right = barWidth * latency.counts.length;
  const floor = height - FOOT;
  bars.forEach((n, index) => {
    const middle = ((index + 0.5) / latency.counts.length) * latency.top_ms;
    const isLate = deadline !== null && middle > deadline;
    const barHeight = n ? Math.max(2, (n / most) * (floor - HEAD)) : 0;
    context.fillStyle = colour(isLate ? "--warn" : "--accent");
    context.fillRect(index * barWidth, floor - barHeight, Math.max(1, barWidth - 1), barHeight);
  });
  context.fillStyle = colour("--line");
  context.fillRect(0, floor, width, 1);
  context.fillStyle = colour("--quiet");
  const label = (text, x, align) => {
    context.textAlign = align;
    context.fillText(text, x, height - 4);
  };
  label("0", 0, "left");
  label(`${number(latency.top_ms / 2)}`, right / 2, "center");
  label(`${number(latency.top_ms)} ms`, right, "right");
  if (deadline !== null) {
    const x = (deadline / latency.top_ms) * right;
    context.strokeStyle = colour("--text");
    context.setLineDash([4, 3]);
    context.beginPath();
    context.moveTo(x, HEAD - 2);
    context.lineTo(x, floor);
    context.stroke();
    context.fillStyle = colour("--text");
    context.textAlign = x > width * 0.6 ? "right" : "left";
    context.fillText(`deadline ${number(deadline)} ms`, x + (x > width * 0.6 ? -4 : 4), HEAD - 4);
  }
  const limit = deadline === null ? "no deadline" : `deadline ${number(deadline)} ms`;
  canvas.setAttribute(
    "aria-label",
    `Latency of the last ${count(latency.n)} images: median ${number(latency.p50_ms)} ms, ` +
      `99 of 100 under ${number(latency.p99_ms)} ms, longest ${number(latency.max_ms)} ms, ${limit}`,
  );
}
