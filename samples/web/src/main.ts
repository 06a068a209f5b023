/** The page: passes user actions to the worker and shows its results. */

import { alert, told } from "./alerts.js";
import { Capture } from "./capture.js";
import { drawChart } from "./chart.js";
import { connect, trustedUrl } from "./client.js";
import { announce, byId, say } from "./dom.js";
import { droppedFiles, isHidden, picked } from "./dropped.js";
import type { Found } from "./dropped.js";
import type { Given, News, View } from "./protocol.js";
import { show, showAnswer, showLatest, showProgress } from "./showing.js";

const SHOWN = 12;
const PLACES = { pictures: "pictures-text", layers: "layers-text", training: "training-text" } as const;
let view: View | null = null;
let pictures = "";
let drawn = 0;

const call = connect((news) => {
  if (news.kind === "view") update(news.view);
  else if (news.kind === "step") step(news);
  else if (news.kind === "doing") announce(PLACES[news.about], `${news.text}: ${news.done} of ${news.total}`);
  else alert(news.text);
});

function update(next: View): void {
  const other = next.model?.sha256 !== view?.model?.sha256;
  view = next;
  if (next.model !== null && other) {
    byId<HTMLInputElement>("epochs").value = String(next.run.epochs);
    byId<HTMLInputElement>("rate").value = String(next.run.rate);
    byId<HTMLInputElement>("limit").value = next.limit === null ? "" : String(next.limit / 2 ** 20);
    byId("answers").replaceChildren();
    say(byId("answer"), "");
  }
  show(next, (entry) => void told(() => call("take", entry)));
  const found = JSON.stringify([next.model?.sha256, next.pictures, next.model?.classes]);
  if (found !== pictures && next.model !== null) void latest(next);
  pictures = found;
}

async function latest({ model }: View): Promise<void> {
  if (model !== null) showLatest(await call("look", SHOWN), model);
}

/** Draw a step, at most once per frame of the screen. */
function step({ loss, epoch }: News & { kind: "step" }): void {
  if (view === null) return;
  view = { ...view, run: { ...view.run, curve: [...view.run.curve, loss] } };
  if (drawn !== 0) return;
  drawn = requestAnimationFrame(() => {
    drawn = 0;
    if (view === null) return;
    drawChart(view.run);
    showProgress(epoch - 1, view.run.stepsPerEpoch, view.run.curve.length, view.run.epochs);
  });
}

new ResizeObserver(() => view !== null && drawChart(view.run)).observe(byId("chart"));

// Files

async function take(found: readonly Found[]): Promise<void> {
  const files = found.filter((one) => !isHidden(one));
  if (files.length === 0) throw new Error("No files were given.");
  if (files.some(({ file }) => file.name === "device.json")) return openPackage(files);
  const deltas = files.filter(({ file }) => file.name.endsWith(".safetensors"));
  if (deltas.length > 0) return restore(deltas[0].file);
  return addPictures(files);
}

async function openPackage(files: readonly Found[]): Promise<void> {
  if (!files.some(({ file }) => file.name === "device.json"))
    throw new Error(
      `There is no device.json among the ${files.length} files. Choose the folder that adabet-onnx menu or adabet-onnx device wrote, or all of its files.`,
    );
  await call(
    "openFiles",
    files.map(({ file }) => ({ name: file.name, blob: file })),
  );
}

async function addPictures(files: readonly Found[]): Promise<void> {
  const label = byId<HTMLSelectElement>("class").selectedIndex;
  const given = files.map(({ file, folder }): Given => ({
    picture: file,
    name: file.name,
    label: folder === null ? label : null,
    folder,
  }));
  const { added, skipped } = await call("addPictures", given);
  if (skipped.length === 0) return;
  const shown = skipped
    .slice(0, 3)
    .map(({ name, why }) => `${name}: ${why}`)
    .join("; ");
  throw new Error(
    `${added} of ${files.length} files were added. Not: ${shown}${skipped.length > 3 ? `; and ${skipped.length - 3} more` : ""}.`,
  );
}

async function restore(file: File): Promise<void> {
  const entry = await call("restore", new Uint8Array(await file.arrayBuffer()));
  say(byId("stored"), `Restored ${entry} from ${file.name}.`);
}

function onFiles(id: string, work: (found: Found[]) => Promise<void>): void {
  const input = byId<HTMLInputElement>(id);
  input.addEventListener("change", () => {
    const found = picked(input.files);
    input.value = "";
    if (found.length > 0) void told(() => work(found));
  });
}

onFiles("package-folder", openPackage);
onFiles("package-files", openPackage);
onFiles("picture-files", addPictures);
onFiles("picture-folder", (found) => addPictures(found.filter((one) => !isHidden(one))));
onFiles("restore", ([{ file }]) => restore(file));
onFiles("ask-file", async ([{ file }]) =>
  showAnswer(await call("predict", { picture: file, name: file.name, label: null, folder: null })),
);

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const { dataTransfer } = event;
  if (dataTransfer !== null) void told(async () => take(await droppedFiles(dataTransfer)));
});

// Drawing and camera

const capture = new Capture((on) => say(byId("camera"), on ? "Stop the camera" : "Use the camera"));

async function captured(label: number | null): Promise<Given> {
  if (capture.empty) throw new Error("The canvas is empty. Draw something, or use the camera.");
  const name = capture.usesCamera ? "photograph" : "drawing";
  return { picture: await capture.picture(), name, label, folder: null };
}

on("ask", async () => showAnswer(await call("predict", await captured(null))));
on("keep", async () => {
  const { picture, ...rest } = await captured(byId<HTMLSelectElement>("class").selectedIndex);
  await call("addPictures", [{ picture, ...rest }]);
  capture.clear();
});
on("clear", async () => capture.clear());
on("camera", async () => {
  try {
    await capture.useCamera(!capture.usesCamera);
  } catch (error) {
    throw new Error(
      `The camera cannot be used: ${error instanceof Error ? error.message : String(error)}. Allow it in the browser, or draw.`,
    );
  }
});

// Steps

on("open-site", () => call("openSite"));
on("example", () => call("addExample"));
on("remove-last", () => call("removeLast"));
on("remove-all", () => call("removeAll"));
on("score", () => call("score"));
on("pause", () => call(view?.run.state === "paused" ? "goOn" : "pause"));
on("stop", () => call("stop"));
on("anew", () => call("beginAnew"));
on("forget", () => call("forget"));
on("save-delta", async () => download(await call("delta"), `${view?.model?.name ?? "model"}.delta.safetensors`));
on("save-selected", async () => download(await call("selected"), "selected.bin"));
on("train", async () => {
  const [epochs, rate] = [number("epochs"), number("rate")];
  if (!Number.isSafeInteger(epochs) || epochs < 1) throw new Error("Epochs: give a whole number of at least 1.");
  if (!(rate > 0)) throw new Error("Learning rate: give a number above 0.");
  await navigator.storage?.persist?.().catch(() => false); // ask the browser not to clear it when space is short
  await call("train", { epochs, rate });
});
byId("limit").addEventListener("change", () => {
  const text = byId<HTMLInputElement>("limit").value.trim();
  void told(async () => {
    if (text !== "" && !(Number(text) >= 0)) throw new Error("Memory: give a number of MiB, or nothing for no limit.");
    await call("setLimit", text === "" ? null : Math.floor(Number(text) * 2 ** 20));
  });
});
byId("gpu").addEventListener("change", () => void told(() => call("useGpu", byId<HTMLInputElement>("gpu").checked)));

function on(id: string, work: () => Promise<unknown>): void {
  byId(id).addEventListener("click", () => void told(work));
}

function number(id: string): number {
  return byId<HTMLInputElement>(id).valueAsNumber;
}

function download(bytes: Uint8Array<ArrayBuffer>, name: string): void {
  const url = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Offline use

async function serve(): Promise<void> {
  if (!import.meta.env.PROD || !("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register(trustedUrl(new URL("./sw.js", location.href)), { scope: "./" });
    await navigator.serviceWorker.ready;
    say(byId("offline"), "Works without network from now on.");
  } catch {
    say(byId("offline"), "This browser does not keep the page: it needs the network each time.");
  }
}

void told(() => call("start")).finally(() => {
  byId("main").setAttribute("aria-busy", "false");
  void serve();
});
