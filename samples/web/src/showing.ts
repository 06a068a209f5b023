/** Shows the worker's view as text, tables and bars. */

import { drawChart } from "./chart.js";
import { announce, byId, counted, disable, element, percent, say, size } from "./dom.js";
import type { ModelView, Prediction, Shown, View } from "./protocol.js";

/** @param onTake called when the user picks a choice of layers */
export function show(view: View, onTake: (entry: string) => void): void {
  showModel(view.model);
  showPictures(view);
  showScores(view);
  showEntries(view, onTake);
  showTraining(view);
  showResult(view);
  enable(view);
}

function showModel(model: ModelView | null): void {
  if (model === null) return;
  const { name, classes, width, height, channels, bytes } = model;
  const what = channels === 1 ? "grey pictures" : "colour pictures";
  say(
    byId("model-text"),
    `${name}: ${what} of ${width} × ${height} pixels, ${counted(classes.length, "class", "classes")}; ${size(bytes)} in all.`,
  );
  const select = byId<HTMLSelectElement>("class");
  const present = [...select.options].map((option) => option.text);
  if (present.length === classes.length && present.every((text, i) => text === classes[i])) return;
  const kept = select.selectedIndex;
  select.replaceChildren(...classes.map((text, i) => element("option", { value: String(i) }, text)));
  select.selectedIndex = Math.max(0, Math.min(kept, classes.length - 1));
}

function showPictures({ model, pictures: { train, test } }: View): void {
  const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);
  const [trained, tested] = [sum(train), sum(test)];
  const text =
    trained + tested === 0
      ? "No pictures yet."
      : `${counted(trained, "picture", "pictures")} to train with, ${tested.toLocaleString("en")} to test with.`;
  announce("pictures-text", text);
  byId("counts-details").hidden = trained + tested === 0;
  const rows = (model?.classes ?? []).map((name, i) => row([name, String(train[i]), String(test[i])]));
  byId("counts").replaceChildren(...rows);
}

/** Thumbnails, newest first. */
export function showLatest(pictures: readonly Shown[], { width, height, classes }: ModelView): void {
  const items = pictures.map(({ name, label, role, rgba }) => {
    const canvas = element("canvas", { width: String(width), height: String(height), role: "img", "aria-label": name });
    canvas.getContext("2d")!.putImageData(new ImageData(rgba, width, height), 0, 0);
    return element(
      "li",
      { title: name },
      canvas,
      element("span", {}, `${classes[label]}${role === "test" ? " (test)" : ""}`),
    );
  });
  byId("shown").replaceChildren(...items);
}

function showScores({ scores }: View): void {
  byId("scores-details").hidden = scores === null;
  if (scores === null) return;
  const most = Math.max(...scores.map(({ score }) => score), Number.MIN_VALUE);
  const ranked = scores.map((one, i) => ({ ...one, i })).sort((a, b) => b.score - a.score || a.i - b.i);
  byId("scores").replaceChildren(
    ...ranked.map(({ name, score }) =>
      element(
        "li",
        {},
        element("span", { class: "name" }, name),
        bar(score / most),
        element("span", { class: "value", title: String(score) }, score.toExponential(2)),
      ),
    ),
  );
}

function bar(share: number, kind = "now"): HTMLElement {
  const made = element("span", { class: `bar ${kind}`, "aria-hidden": "true" });
  made.style.setProperty("--share", String(share));
  return made;
}

function showEntries({ entries, entry, note, scores, run }: View, onTake: (entry: string) => void): void {
  const focused =
    (document.activeElement as HTMLInputElement | null)?.name === "entry"
      ? (document.activeElement as HTMLInputElement).value
      : null;
  const rows = entries.map((one, i) => {
    const input = element("input", { type: "radio", name: "entry", value: one.name, id: `entry-${i}` });
    input.checked = one.name === entry;
    input.disabled = !one.fits || run.state !== "idle";
    input.addEventListener("change", () => onTake(one.name));
    const words = `${counted(one.layers.length, "layer", "layers")}${one.fits ? "" : ", needs too much memory"}`;
    const label = element("label", { for: input.id }, one.name, element("span", { class: "small" }, words));
    const cells = [
      cell(one.trained.toLocaleString("en")),
      cell(size(one.bytes)),
      cell(one.worth === null ? "–" : one.worth.toExponential(2)),
    ];
    return element(
      "tr",
      one.name === entry ? { class: "chosen" } : {},
      element("th", { scope: "row" }, element("div", {}, input, label)),
      ...cells,
    );
  });
  byId("entries").replaceChildren(...rows);
  if (focused !== null) rows[entries.findIndex(({ name }) => name === focused)]?.querySelector("input")?.focus();
  const chosen = entries.find(({ name }) => name === entry);
  const text =
    note ??
    (chosen === undefined
      ? ""
      : `Chosen: ${chosen.name}, ${counted(chosen.layers.length, "layer", "layers")}, ${size(chosen.bytes)} for training${scores === null ? "" : `, worth ${chosen.worth?.toExponential(2) ?? "unknown"}`}.`);
  announce("layers-text", text);
  say(byId("chosen-layers"), chosen === undefined ? "" : `Layers: ${chosen.layers.join(", ")}.`);
}

function showTraining({ run, model, entry }: View): void {
  const { history, epoch, epochs, state, where } = run;
  const last = history[history.length - 1];
  const share = (row: typeof last | undefined) =>
    row === undefined || row.right === null
      ? "–"
      : `${percent(row.right / row.tested)} (${row.right} of ${row.tested})`;
  say(byId("before"), share(history[0]?.loss === null ? history[0] : undefined));
  say(byId("now"), share(last));
  say(byId("loss"), last?.loss == null ? "–" : last.loss.toPrecision(3));
  const right =
    last === undefined || last.right === null
      ? ""
      : `, ${percent(last.right / last.tested)} of the test pictures right`;
  const words = {
    running: `Training ${where}: epoch ${epoch + 1} of ${epochs}${right}.`,
    paused: `Paused in epoch ${epoch + 1} of ${epochs}${right}.`,
  };
  const idle =
    epoch > 0
      ? `${counted(epoch, "epoch", "epochs")} done${right}.`
      : model === null || entry === null
        ? ""
        : "Ready to train.";
  announce("training-text", state === "idle" ? idle : words[state]);
  byId("epochs-details").hidden = history.length === 0;
  byId("history").replaceChildren(
    ...history.map((one) =>
      row([String(one.epoch), one.loss?.toPrecision(4) ?? "–", one.testLoss?.toPrecision(4) ?? "–", share(one)]),
    ),
  );
  say(byId("pause"), state === "paused" ? "Resume" : "Pause");
  say(byId("train"), epoch > 0 && epoch < epochs ? "Train on" : "Train");
  drawChart(run);
  showProgress(epoch, run.stepsPerEpoch, run.curve.length, epochs);
}

/** The progress bar of training, updated after each step. */
export function showProgress(epoch: number, stepsPerEpoch: number, steps: number, epochs: number): void {
  const progress = byId<HTMLProgressElement>("progress");
  progress.value = Math.min(1, Math.max(epoch / Math.max(epochs, 1), steps / Math.max(stepsPerEpoch * epochs, 1)));
}

function showResult({ stored, run, model }: View): void {
  const text =
    stored === null
      ? run.epoch > 0 && model !== null
        ? "Not stored on this device."
        : ""
      : `Stored on this device: ${counted(stored, "epoch", "epochs")}. Close the page and come back whenever you like.`;
  say(byId("stored"), text);
}

function enable({ model, pictures, entry, run, gpu, entries }: View): void {
  const idle = run.state === "idle" && model !== null;
  const some = pictures.train.some((number) => number > 0);
  for (const id of [
    "example",
    "picture-files",
    "picture-folder",
    "package-folder",
    "package-files",
    "keep",
    "restore",
    "forget",
    "open-site",
  ])
    disable(id, !idle);
  for (const id of ["remove-last", "remove-all"])
    disable(id, !idle || (!some && pictures.test.every((number) => number === 0)));
  disable("score", !idle || !some || !(model?.scored ?? false));
  disable("limit", !idle);
  disable("train", !idle || !some || entry === null || !entries.some(({ name, fits }) => name === entry && fits));
  for (const id of ["pause", "stop"]) disable(id, run.state === "idle");
  disable("anew", !idle || run.epoch === 0);
  disable("gpu", !idle || !gpu.there);
  byId<HTMLInputElement>("gpu").checked = gpu.used;
  for (const id of ["save-delta", "save-selected"]) disable(id, model === null || entry === null);
  byId("example").hidden = model !== null && !model.example;
  byId("open-site").hidden = model === null || model.fromSite;
  say(
    byId("gpu-text"),
    gpu.there
      ? "The first steps are compared with the processor’s; if they differ, the processor trains."
      : "This browser offers no GPU (WebGPU); the processor trains.",
  );
}

/** The model's predictions for a picture, before and after training. */
export function showAnswer({ classes }: Prediction): void {
  const same = classes.every(({ before, after }) => before === after);
  const best = (key: "before" | "after") => classes.reduce((a, b) => (b[key] > a[key] ? b : a));
  const [before, after] = [best("before"), best("after")];
  const now = `It is ${after.name} (${percent(after.after)})`;
  say(byId("answer"), same ? `${now}.` : `${now}; before training: ${before.name} (${percent(before.before)}).`);
  const shown = [...classes].sort((a, b) => Math.max(b.after, b.before) - Math.max(a.after, a.before)).slice(0, 5);
  byId("answers").replaceChildren(
    ...shown.map((one) => {
      const words = same ? percent(one.after) : `${percent(one.before)} → ${percent(one.after)}`;
      const bars = element("span", { class: "pair" }, ...(same ? [] : [bar(one.before, "then")]), bar(one.after));
      return element(
        "li",
        {},
        element("span", { class: "name" }, one.name),
        bars,
        element("span", { class: "value" }, words),
      );
    }),
  );
}

function row(cells: readonly string[]): HTMLElement {
  const [first, ...others] = cells;
  return element("tr", {}, element("th", { scope: "row" }, first), ...others.map(cell));
}

function cell(text: string): HTMLElement {
  return element("td", { class: "number" }, text);
}
