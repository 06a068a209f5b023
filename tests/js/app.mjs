// node app.mjs CHROMIUM SITE FOLDER: use the page of samples/web like a user, in a real browser with the width of a
// phone; prints a report as JSON. FOLDER has the user's files, and receives downloads.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

import { chromium } from "playwright-core";

import { serve } from "./site.mjs";

const [executablePath, folder, own] = process.argv.slice(2);
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const site = await serve(folder);
const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
];
const browser = await chromium.launch({ executablePath, args: ARGUMENTS });
const seen = { problems: [], violations: [], sideways: [], states: [] };

/** A page with separate storage, whose errors are recorded. */
async function visit(given) {
  const context =
    given ?? (await browser.newContext({ viewport: { width: 390, height: 844 }, permissions: ["camera"] }));
  const tab = await context.newPage();
  tab.setDefaultTimeout(30000);
  tab.on("console", (message) => {
    if (!message.text().includes("blocked by Playwright")) seen.problems.push(`${message.type()}: ${message.text()}`);
  });
  tab.on("pageerror", (error) => seen.problems.push(`error: ${error}`));
  await tab.goto(site.url);
  await ready(tab);
  return tab;
}

const ready = (tab) => tab.waitForSelector("main[aria-busy=false]");
const text = (tab, id) => tab.locator(id).textContent();
const number = async (tab, id) => Number(/\((\d+) of/.exec(await text(tab, id))?.[1] ?? NaN);
const says = (tab, id, words) =>
  tab.waitForFunction(([id, words]) => new RegExp(words).test(document.querySelector(id).textContent), [id, words]);

const LOOKS = [
  [360, "light"],
  [1280, "dark"],
  [360, "dark"],
  [1280, "light"],
];

/** The findings of axe, and whether the page scrolls sideways, in the first `looks` of LOOKS. */
async function inspect(tab, state, looks = 2) {
  seen.states.push(state);
  if (await tab.evaluate(() => globalThis.axe === undefined)) await tab.evaluate(axe);
  await tab.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = !one.hidden)));
  for (const [width, colorScheme] of LOOKS.slice(0, looks)) {
    await tab.setViewportSize({ width, height: 844 });
    await tab.emulateMedia({ colorScheme });
    const found = await tab.evaluate(async () => {
      const { violations } = await globalThis.axe.run();
      const { scrollWidth, clientWidth } = document.documentElement;
      return {
        rules: violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`),
        over: scrollWidth - clientWidth,
      };
    });
    seen.violations.push(...found.rules.map((rule) => `${state}, ${width}, ${colorScheme}: ${rule}`));
    if (found.over > 0) seen.sideways.push(`${state}, ${width}: ${found.over}`);
  }
  await tab.setViewportSize({ width: 390, height: 844 });
}

/** Pass files to an input and return the resulting message. */
async function refused(tab, input, files) {
  await tab.evaluate(() => document.querySelectorAll(".alert button").forEach((button) => button.click()));
  await tab.setInputFiles(input, files);
  const box = tab.locator(".alert p").first();
  await box.waitFor();
  return box.textContent();
}

async function saved(tab, button, name) {
  const [file] = await Promise.all([tab.waitForEvent("download"), tab.click(button)]);
  await file.saveAs(join(own, name));
}

/** Load the example, score, choose within a memory limit, train with a pause. */
async function adapt(tab) {
  await inspect(tab, "fresh", 4);
  await tab.click("#example");
  await says(tab, "#pictures-text", "900 pictures");
  await tab.click("#score");
  await says(tab, "#layers-text", "Chosen");
  seen.free = await text(tab, "#layers-text");
  await tab.click("#scores-details summary");
  seen.ranking = await tab
    .locator("#scores li")
    .evaluateAll((items) =>
      items.map((one) => [one.querySelector(".name").textContent, Number(one.querySelector(".value").title)]),
    );
  await tab.fill("#limit", "1");
  await tab.press("#limit", "Enter");
  await says(tab, "#layers-text", "fits");
  seen.none = { text: await text(tab, "#layers-text"), train: await tab.isEnabled("#train") };
  await inspect(tab, "nothing fits");
  await tab.fill("#limit", "3");
  await tab.press("#limit", "Enter");
  await says(tab, "#layers-text", "Chosen");
  seen.limited = await text(tab, "#layers-text");
  await inspect(tab, "scored");
  await tab.fill("#epochs", "3");
  await tab.fill("#rate", "0.005");
  await tab.click("#train");
  await says(tab, "#training-text", "epoch 2 of 3");
  await tab.click("#pause");
  await says(tab, "#training-text", "Paused");
  const steps = () =>
    tab.evaluate(() => [
      document.querySelector("#progress").value,
      document.querySelector("#chart .curve-loss").getAttribute("d"),
    ]);
  await tab.waitForTimeout(200);
  const before = await steps();
  await inspect(tab, "paused");
  seen.paused = { still: before[0] === (await steps())[0], busy: await tab.isEnabled("#score") };
  await tab.click("#pause");
  await says(tab, "#training-text", "3 epochs done");
  seen.before = await number(tab, "#before");
  seen.after = await number(tab, "#now");
  seen.chart = await text(tab, "#chart-title");
  seen.table = await tab.locator("#history tr").count();
  await inspect(tab, "trained", 4);
  await saved(tab, "#save-delta", "page.safetensors");
  await saved(tab, "#save-selected", "selected.bin");
}

/** Leave in the middle of an epoch, come back, resume. */
async function comeBack(tab) {
  await tab.fill("#epochs", "200");
  await tab.click("#train");
  await says(tab, "#stored", " 5 epochs");
  await tab.reload();
  await ready(tab);
  const stored = Number(/(\d+) epochs/.exec(await text(tab, "#stored"))[1]);
  seen.reloaded = {
    stored,
    pictures: await text(tab, "#pictures-text"),
    rows: await tab.locator("#history tr").count(),
    right: await number(tab, "#now"),
  };
  await tab.fill("#epochs", String(stored + 1));
  seen.rate = await tab.inputValue("#rate");
  await tab.fill("#rate", "0.0001");
  await tab.click("#train");
  await says(tab, "#training-text", `${stored + 1} epochs done`);
  seen.goneOn = await number(tab, "#now");
  await tab.fill("#epochs", "200");
  await tab.click("#train");
  await says(tab, "#training-text", `epoch ${stored + 3} of`);
  await tab.click("#stop");
  await says(tab, "#training-text", "epochs done");
  seen.stopped = {
    epochs: Number(/(\d+) epochs/.exec(await text(tab, "#training-text"))[1]) - stored,
    right: await number(tab, "#now"),
  };
  await says(tab, "#live", "epochs done");
}

/** No network: the page comes from the cache and works. */
async function offline(tab) {
  await says(tab, "#offline", "without network");
  await tab.context().setOffline(true);
  site.sent.down = true;
  await tab.reload();
  await ready(tab);
  await tab.locator("#canvas").focus();
  for (const key of [" ", ...Array(8).fill("ArrowDown"), " "]) await tab.keyboard.press(key);
  await tab.click("#ask");
  await says(tab, "#answer", "It is .*before training");
  seen.offline = { model: await text(tab, "#model-text"), answer: await text(tab, "#answer") };
  site.sent.down = false;
  await tab.context().setOffline(false);
}

/** Restore the downloaded delta, and try invalid files. */
async function restore(tab) {
  const delta = await readFile(join(own, "page.safetensors"));
  const file = (buffer, name = "d.safetensors") => ({ name, mimeType: "application/octet-stream", buffer });
  const foreign = Buffer.from(delta.toString("latin1").replace(/("model_sha256":\s*")../, "$1ff"), "latin1");
  const damaged = Buffer.from(delta);
  damaged[damaged.length - 2] ^= 64;
  seen.refused = {
    truncated: await refused(tab, "#restore", file(delta.subarray(0, -4))),
    cut: await refused(tab, "#restore", file(delta.subarray(0, 100))),
    wrong: await refused(tab, "#restore", file(Buffer.from("<b class=injected>no delta</b>"))),
    foreign: await refused(tab, "#restore", file(foreign)),
    damaged: await refused(tab, "#restore", file(damaged)),
    picture: await refused(tab, "#picture-files", file(Buffer.from("no picture"), "<img src=x onerror=alert(1)>.png")),
    asked: await refused(tab, "#ask-file", file(Buffer.from("no picture"), "x.png")),
    noPackage: await refused(tab, "#package-files", file(delta)),
    noJson: await refused(tab, "#package-files", file(Buffer.from("{"), "device.json")),
    foreignPackage: await refused(tab, "#package-files", file(Buffer.from('{"format": "other"}'), "device.json")),
    damagedPackage: await refused(tab, "#package-folder", join(own, "damaged")),
    otherTask: await refused(tab, "#package-folder", join(own, "numbers")),
  };
  await inspect(tab, "message");
  await tab.click("#anew");
  await says(tab, "#training-text", "Ready");
  await tab.evaluate(
    (bytes) => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([Uint8Array.from(bytes)], "page.safetensors"));
      document
        .querySelector("h2")
        .dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    },
    [...delta],
  );
  await says(tab, "#stored", "Restored .* from page.safetensors");
  seen.restored = await number(tab, "#now");
}

/** Full storage is reported, and training continues. */
async function full(tab) {
  const break_ = () => {
    IDBObjectStore.prototype.kept = IDBObjectStore.prototype.put;
    IDBObjectStore.prototype.put = () => {
      throw new DOMException("The quota has been exceeded.", "QuotaExceededError");
    };
  };
  await tab.workers()[0].evaluate(break_);
  await tab.fill("#epochs", "2");
  await tab.click("#train");
  await says(tab, "#training-text", "2 epochs done");
  seen.full = { text: await tab.locator(".alert p").allTextContents(), right: await number(tab, "#now") };
  await saved(tab, "#save-delta", "full.safetensors");
  await tab.workers()[0].evaluate(() => (IDBObjectStore.prototype.put = IDBObjectStore.prototype.kept));
  await tab.fill("#epochs", "3");
  await tab.click("#train");
  await says(tab, "#stored", "3 epochs");
}

/** Another package, of colour pictures in folders whose names are hostile; then the camera. */
async function ownPictures(tab) {
  await tab.setInputFiles("#package-folder", join(own, "colours"));
  await says(tab, "#model-text", "colour pictures");
  await tab.setInputFiles("#picture-folder", join(own, "pictures"));
  await says(tab, "#pictures-text", "24 pictures");
  await tab.click("#score");
  await says(tab, "#layers-text", "Chosen");
  await tab.fill("#epochs", "30");
  await tab.fill("#rate", "0.02");
  await tab.click("#train");
  await says(tab, "#training-text", "30 epochs done");
  await tab.setInputFiles("#ask-file", join(own, "ask.png"));
  await says(tab, "#answer", "It is");
  seen.own = {
    classes: await tab.locator("#class option").allTextContents(),
    answer: await text(tab, "#answer"),
    names: await tab.locator("#shown li").evaluateAll((items) => items.map((one) => one.title)),
    injected: await tab.locator("img, script:not([src]), .injected").count(),
    right: await text(tab, "#now"),
  };
  await tab.click("#camera");
  await says(tab, "#camera", "Stop");
  await tab.click("#keep");
  await says(tab, "#pictures-text", "25 pictures");
  await tab.click("#camera");
  await inspect(tab, "own pictures");
  await tab.reload();
  await ready(tab);
  seen.own.kept = [await text(tab, "#model-text"), await text(tab, "#pictures-text"), await text(tab, "#stored")];
  await tab.click("#open-site");
  await says(tab, "#model-text", "digits");
}

/** The whole flow with the keyboard alone. */
async function keys() {
  const tab = await visit();
  const to = async (id) => {
    for (let i = 0; i < 80; i++) {
      if ((await tab.evaluate(() => document.activeElement.id)) === id) return;
      await tab.keyboard.press("Tab");
    }
    throw new Error(`the Tab key does not lead to #${id}`);
  };
  const press = async (id, key = "Enter") => {
    await to(id);
    await tab.keyboard.press(key);
  };
  await press("example");
  await says(tab, "#pictures-text", "900 pictures");
  await press("canvas", " ");
  for (let i = 0; i < 6; i++) await tab.keyboard.press("ArrowDown");
  await press("ask");
  await says(tab, "#answer", "It is");
  await press("score");
  await says(tab, "#layers-text", "Chosen");
  await to("limit");
  await tab.keyboard.type("1.55");
  await tab.keyboard.press("Enter");
  await says(tab, "#layers-text", "Chosen: head");
  await to("epochs");
  await tab.keyboard.press("Control+A");
  await tab.keyboard.type("2");
  await press("train");
  await says(tab, "#training-text", "2 epochs done");
  const download = tab.waitForEvent("download");
  await press("save-delta");
  seen.keys = { file: (await download).suggestedFilename(), after: await text(tab, "#now") };
  await tab.context().close();
}

const timed = async (part, tab) => {
  const start = performance.now();
  await part(tab);
  seen.seconds = { ...seen.seconds, [part.name]: Math.round(performance.now() - start) / 1000 };
};
/**
 * On a software GPU; then on one that computes incorrectly: the runtime's module for it is replaced by one that trains
 * on the processor, with losses half a percent too high.
 */
async function gpu() {
  const other = await chromium.launch({
    executablePath,
    args: [...ARGUMENTS.filter((one) => one !== "--disable-gpu"), "--enable-unsafe-webgpu"],
  });
  try {
    seen.gpu = {};
    for (const kind of ["right", "wrong"]) {
      const context = await other.newContext({ serviceWorkers: "block" });
      if (kind === "wrong")
        await context.route("**/ort.webgpu.min.mjs", (route) =>
          route.fulfill({ contentType: "text/javascript", body: WRONG }),
        );
      const tab = await visit(context);
      if (await tab.isDisabled("#gpu")) return;
      await tab.setInputFiles("#package-folder", join(own, "colours"));
      await says(tab, "#model-text", "colour pictures");
      await tab.setInputFiles("#picture-folder", join(own, "pictures"));
      await says(tab, "#pictures-text", "24 pictures");
      await tab.check("input[value=head]");
      await tab.check("#gpu");
      await tab.fill("#epochs", "3");
      await tab.click("#train");
      await says(tab, "#training-text", "3 epochs done");
      seen.gpu[kind] = {
        text: await tab.locator(".alert p").allTextContents(),
        on: await tab.isChecked("#gpu"),
        loss: Number(await text(tab, "#loss")),
      };
      await saved(tab, "#save-selected", `${kind}.bin`);
      await context.close();
    }
  } finally {
    await other.close();
  }
}

const WRONG = `
  import * as ort from "./ort.wasm.min.mjs";
  export const { Tensor, env } = ort;
  export const InferenceSession = {
    async create(model, options) {
      const session = await ort.InferenceSession.create(model, { ...options, executionProviders: ["wasm"], preferredOutputLocation: undefined });
      const run = session.run.bind(session);
      session.run = async (feeds, fetches) => {
        const outputs = await run(feeds, fetches);
        for (const tensor of Object.values(outputs)) if (tensor.dims.length === 0) tensor.data[0] *= 1.005;
        return outputs;
      };
      return session;
    },
  };`;

try {
  const tab = await visit();
  for (const part of [adapt, comeBack, offline, restore, full, ownPictures]) await timed(part, tab);
  await tab.context().close();
  await timed(keys);
  await timed(gpu);
} catch (error) {
  const alerts = await Promise.all(
    browser
      .contexts()
      .flatMap((one) => one.pages())
      .map((tab) => tab.locator(".alert p").allTextContents()),
  );
  seen.failed = `${error.stack} ${alerts}`;
} finally {
  await browser.close();
  site.close();
}
await writeFile(join(own, "seen.json"), JSON.stringify(seen, null, 1));
