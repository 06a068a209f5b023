/** The chart of loss and accuracy. */

import { byId, drawing, percent } from "./dom.js";
import type { RunView } from "./protocol.js";

const [LEFT, TOP] = [38, 10];
const MOST_POINTS = 400;

/** Draw loss over steps (axis at the left) and accuracy over epochs (axis at the right). */
export function drawChart({ curve, history, stepsPerEpoch, epochs }: RunView): void {
  const chart = byId<SVGElement>("chart");
  const title = byId("chart-title");
  const { width, height } = chart.getBoundingClientRect();
  const [right, bottom] = [Math.max(width, 200) - 44, Math.max(height, 120) - 34];
  chart.setAttribute("viewBox", `0 0 ${right + 44} ${bottom + 34}`);
  const steps = Math.max(epochs * stepsPerEpoch, curve.length, 1);
  const most = niceTop(Math.max(...(curve.length > 0 ? thinned(curve).map(([, loss]) => loss) : [1])));
  const x = (step: number) => LEFT + ((right - LEFT) * step) / steps;
  const y = (share: number) => bottom - (bottom - TOP) * share;
  const parts: SVGElement[] = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(drawing("line", { class: "grid", x1: LEFT, x2: right, y1: y(share), y2: y(share) }));
    parts.push(drawing("text", { class: "left", x: LEFT - 6, y: y(share) + 4 }, label(most * share)));
    parts.push(drawing("text", { class: "right", x: right + 6, y: y(share) + 4 }, `${100 * share} %`));
  }
  for (const epoch of ticks(epochs)) {
    if (stepsPerEpoch > 0)
      parts.push(drawing("text", { class: "under", x: x(epoch * stepsPerEpoch), y: bottom + 16 }, String(epoch)));
  }
  parts.push(drawing("text", { class: "under", x: (LEFT + right) / 2, y: bottom + 31 }, "epoch"));
  if (curve.length > 0)
    parts.push(
      drawing("path", {
        class: "curve-loss",
        d: path(thinned(curve).map(([step, loss]) => [x(step), y(Math.min(loss / most, 1))])),
      }),
    );
  const tested = history
    .filter((row) => row.right !== null)
    .map((row) => [x(row.epoch * stepsPerEpoch), y(row.right! / row.tested)] as const);
  if (tested.length > 0) parts.push(drawing("path", { class: "curve-accuracy", d: path(tested) }));
  for (const [cx, cy] of tested) parts.push(drawing("circle", { class: "point", cx, cy, r: 4 }));
  title.textContent = described(curve, history);
  chart.replaceChildren(title, ...parts);
}

function described(curve: readonly number[], history: RunView["history"]): string {
  if (curve.length === 0) return "Loss and accuracy: nothing has been trained yet.";
  const text = `Loss of ${curve.length} steps, from ${curve[0].toPrecision(3)} to ${curve[curve.length - 1].toPrecision(3)}`;
  const tested = history.filter((row) => row.right !== null);
  if (tested.length === 0) return `${text}.`;
  const share = (row: RunView["history"][number]) => percent(row.right! / row.tested);
  return `${text}; accuracy on the test pictures from ${share(tested[0])} to ${share(tested[tested.length - 1])}.`;
}

/** Reduce to at most so many points, each the mean of its neighbours; steps are counted from 1. */
function thinned(curve: readonly number[]): (readonly [number, number])[] {
  const width = Math.ceil(curve.length / MOST_POINTS);
  return Array.from({ length: Math.ceil(curve.length / width) }, (_, i) => {
    const some = curve.slice(i * width, (i + 1) * width);
    return [i * width + (some.length + 1) / 2, some.reduce((a, b) => a + b, 0) / some.length];
  });
}

function path(points: readonly (readonly [number, number])[] | readonly number[][]): string {
  return points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function ticks(epochs: number): number[] {
  const every = Math.max(1, Math.ceil(epochs / 10));
  return Array.from({ length: Math.floor(epochs / every) + 1 }, (_, i) => i * every);
}

/** The next of 1, 2, 4, 6, 8, 10 times a power of ten. */
function niceTop(most: number): number {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return power * ([1, 2, 4, 6, 8, 10].find((one) => one * power >= most) ?? 10);
}

function label(loss: number): string {
  return loss === 0 ? "0" : String(Number(loss.toPrecision(2)));
}
