/** Score, train and use a device package: see USAGE. */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Device, Evaluation, Ort, Training } from "../web/core/index.js";
import { DeviceError, open } from "../web/core/index.js";
import { checkWritable, folder, labelledFrom, readIfThere, replace, samplesFrom } from "./files.js";

const USAGE = `usage: node main.js show    DEVICE
       node main.js score   DEVICE --x X.bin [--memory BYTES]
       node main.js fit     DEVICE --x X.bin --y Y.bin --delta OUT [--entry NAME] [--held-x X.bin --held-y Y.bin]
                            [--epochs N] [--batch-size N] [--rate R] [--seed N] [--progress FILE] [--memory BYTES]
       node main.js predict DEVICE --x X.bin --output OUT.bin [--entry NAME] [--delta IN]
       node main.js save    DEVICE --output FOLDER --delta IN [--entry NAME]

X.bin and Y.bin are raw little-endian numbers, one sample after another; give --x NAME=X.bin for each input of a model
with several. Without --entry, fit scores the layers on X.bin and uses the entry with the highest scores within
--memory. With --progress, fit resumes from FILE if it exists, and writes it after each epoch.
--threads N is the runtime's number of threads (default 1).`;

const OPTIONS = {
  x: { type: "string", multiple: true },
  y: { type: "string" },
  "held-x": { type: "string", multiple: true },
  "held-y": { type: "string" },
  entry: { type: "string" },
  epochs: { type: "string" },
  "batch-size": { type: "string" },
  rate: { type: "string" },
  seed: { type: "string" },
  memory: { type: "string" },
  delta: { type: "string" },
  progress: { type: "string" },
  output: { type: "string" },
  threads: { type: "string", default: "1" },
  runtime: { type: "string", default: "onnxruntime-node" },
} as const;

type Given = ReturnType<typeof parseArgs<{ options: typeof OPTIONS; allowPositionals: true }>>["values"];

function needed<T>(value: T | undefined, option: string): T {
  if (value === undefined) throw new DeviceError("wrong-option", `--${option} is missing.\n${USAGE}`);
  return value;
}

function numberOf(
  given: Given,
  option: "epochs" | "batch-size" | "rate" | "seed" | "memory" | "threads",
): number | undefined {
  const text = given[option];
  const value = Number(text);
  if (text !== undefined && (text.trim() === "" || Number.isNaN(value)))
    throw new DeviceError("wrong-option", `--${option} is ${text}; give a number.`);
  return text === undefined ? undefined : value;
}

/** Drop options that were not given. */
function present<T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}

function show({ description: about }: Device): void {
  console.log(`${about.model}: opset ${about.opset}, ONNX Runtime ${about.oldest_onnxruntime} or newer`);
  for (const { name, dtype, shape } of about.inputs) console.log(`input ${name}: ${dtype} [${shape.join(", ")}]`);
  console.log(`labels: ${about.labels.dtype} [${about.labels.shape.join(", ")}]`);
  for (const { name, layers, trained, memory } of about.entries) {
    const bytes = memory.map(([batch, size]) => `${size} at batch ${batch}`).join(", ");
    console.log(`entry ${name}: ${layers.length} layers, ${trained} trained numbers, bytes: ${bytes}`);
  }
}

async function score(device: Device, given: Given): Promise<void> {
  const samples = await samplesFrom(device, needed(given.x, "x"));
  const { layers } = await device.score(samples, present({ memory: numberOf(given, "memory") }));
  for (const layer of layers) console.log(`${layer.score}\t${layer.name}`);
}

async function entryOf(device: Device, given: Given, score: boolean): Promise<string> {
  const { entries, training } = device.description;
  if (given.entry !== undefined) return given.entry;
  if (entries.length === 1) return entries[0].name;
  if (!score)
    throw new DeviceError("wrong-option", `Choose one with --entry: ${entries.map(({ name }) => name).join(", ")}.`);
  const scores = await device.score(await samplesFrom(device, needed(given.x, "x")));
  const batchSize = numberOf(given, "batch-size") ?? training.batch_size;
  return device.choose(scores, present({ memory: numberOf(given, "memory"), batchSize })).entry;
}

function told({ loss, accuracy }: Evaluation): string {
  return `held-out loss ${loss}${accuracy === null ? "" : `, accuracy ${accuracy}`}`;
}

async function fit(device: Device, given: Given): Promise<void> {
  const delta = needed(given.delta, "delta");
  for (const path of [delta, given.progress]) if (path !== undefined) await checkWritable(path);
  const data = await labelledFrom(device, needed(given.x, "x"), needed(given.y, "y"));
  const heldX = given["held-x"];
  const heldOut =
    heldX === undefined ? undefined : await labelledFrom(device, heldX, needed(given["held-y"], "held-y"));
  const training = await device.training(await entryOf(device, given, true));
  console.log(`entry ${training.entry.name}`);
  const stored = given.progress === undefined ? null : await readIfThere(given.progress);
  if (stored !== null) await training.resume(stored);
  if (heldOut !== undefined) console.log(told(await training.evaluate(heldOut)));
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort());
  await training.fit(data, {
    ...present({
      epochs: numberOf(given, "epochs"),
      batchSize: numberOf(given, "batch-size"),
      rate: numberOf(given, "rate"),
      seed: numberOf(given, "seed"),
      heldOut,
    }),
    signal: stop.signal,
    onEpoch: async (report) => {
      if (given.progress !== undefined) await replace(given.progress, report.progress);
      console.log(
        `epoch ${report.epoch} loss ${report.loss}${report.heldOut === null ? "" : `, ${told(report.heldOut)}`}`,
      );
    },
  });
  await replace(delta, training.delta());
}

/** An entry with the values of --delta, if given. */
async function personal(device: Device, given: Given): Promise<Training> {
  const training = await device.training(await entryOf(device, given, false));
  if (given.delta !== undefined) {
    const bytes = await readIfThere(given.delta);
    if (bytes === null) throw new DeviceError("wrong-file", `${given.delta} does not exist.`);
    await training.applyDelta(bytes);
  }
  return training;
}

async function predict(device: Device, given: Given): Promise<void> {
  const output = needed(given.output, "output");
  const training = await personal(device, given);
  const outputs = await training.predict(await samplesFrom(device, needed(given.x, "x")));
  const [name, { data, shape }] = Object.entries(outputs)[0];
  await replace(output, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  console.log(`${name} [${shape.join(", ")}]`);
}

async function save(device: Device, given: Given): Promise<void> {
  const output = needed(given.output, "output");
  needed(given.delta, "delta");
  const training = await personal(device, given);
  const { model, selected } = training.entry;
  if (model === null)
    throw new DeviceError("wrong-option", "A package of .ort files has no personal model: use predict.");
  const { weights } = device.description;
  const kept = await Promise.all(
    [model, ...(weights === null ? [] : [weights])].map(async (name) => [name, await device.file(name)] as const),
  );
  await mkdir(output, { recursive: true });
  for (const [name, bytes] of [...kept, [selected, training.selected()] as const])
    await replace(join(output, name), bytes);
  console.log(join(output, model));
}

const COMMANDS: { readonly [name: string]: (device: Device, given: Given) => void | Promise<void> } = {
  show,
  score,
  fit,
  predict,
  save,
};

async function main(): Promise<number> {
  try {
    const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
    const [command, path, ...more] = positionals;
    if (!Object.keys(COMMANDS).includes(command) || path === undefined || more.length > 0)
      throw new DeviceError("wrong-option", USAGE);
    const ort = (await import(values.runtime)) as Ort & { env: { wasm: { numThreads?: number } } };
    const threads = numberOf(values, "threads") ?? 1;
    if (values.runtime === "onnxruntime-web") ort.env.wasm.numThreads = threads;
    const device = await open(ort, folder(path), { session: { intraOpNumThreads: threads } });
    await COMMANDS[command](device, values);
    await device.close();
    return 0;
  } catch (error) {
    const [code, text] =
      error instanceof DeviceError
        ? [error.code, error.message]
        : ["wrong-option", error instanceof Error ? error.message : String(error)];
    console.error(`${code}: ${text}`);
    return 1;
  }
}

const status = await main();
process.stdout.write("", () => process.exit(status)); // onnxruntime-web keeps its worker alive
