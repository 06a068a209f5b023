// node device.mjs CORE RUNTIME JOB.json: jobs of the tests of samples/web/core, compiled into CORE; prints JSON.

import { readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, runtime, jobFile] = process.argv.slice(2);
const from = (name) => import(pathToFileURL(join(folder, name)));
const core = await from("index.js");
const job = JSON.parse(readFileSync(jobFile, "utf8"));
const web = runtime === "onnxruntime-web";
const module = await import(runtime);
if (web) module.env.wasm.numThreads = 1;

/** React Native reads tensors from the beginning of their buffers: no views may be passed to it. */
class Whole extends module.Tensor {
  constructor(type, data, dims) {
    if (data.byteOffset !== 0 || data.byteLength !== data.buffer.byteLength)
      throw new Error(`a tensor ${dims} is a view`);
    super(type, data, dims);
  }
}
const ort = { InferenceSession: module.InferenceSession, Tensor: Whole };
const options = { executionProviders: [web ? "wasm" : "cpu"], session: { intraOpNumThreads: 1, logSeverityLevel: 4 } };

const bytesOf = (path) => new Uint8Array(readFileSync(path));
const floats = (path) => new Float32Array(bytesOf(path).buffer);
const labels = (path) => new (job.floats ? Float32Array : BigInt64Array)(bytesOf(path).buffer);
const source = (path) => ({ read: (name) => readFile(join(path, name)) });
const data = (x, y) => ({ samples: floats(x), labels: labels(y) });
const opened = (path = job.package) => core.open(ort, source(path), options);

/** An error's code and text; null if there was none. */
async function failure(work) {
  try {
    await work();
    return null;
  } catch (error) {
    return {
      code: error instanceof core.DeviceError ? error.code : `no DeviceError: ${error}`,
      message: error.message,
    };
  }
}

/** Train, with and without an interruption, and use the result. */
async function train() {
  const device = await opened();
  const training = await device.training(device.description.entries[0].name);
  const [set, held] = [data(job.x, job.y), data(job.heldX, job.heldY)];
  const settings = { epochs: job.epochs, batchSize: job.batch, rate: job.rate, seed: job.seed };
  const before = await training.evaluate(held);
  const initial = training.selected();
  const [losses, stored, heldOut] = [[], [], []];
  await training.fit(set, {
    ...settings,
    heldOut: held,
    onStep: (report) => void losses.push(report.loss),
    onEpoch: (report) => {
      stored.push(report.progress);
      heldOut.push(report.heldOut);
    },
  });
  const outputs = await training.predict(held.samples);
  writeFileSync(join(job.output, "delta.safetensors"), training.delta());
  writeFileSync(join(job.output, "selected.bin"), training.selected());
  writeFileSync(join(job.output, "initial.bin"), initial);
  writeFileSync(join(job.output, "predicted.bin"), Object.values(outputs)[0].data);
  writeFileSync(join(job.output, "personal.bin"), await personal(device, training, held.samples, outputs));
  const again = await opened();
  const resumed = await again.training(training.entry.name);
  await resumed.resume(stored[0]);
  await resumed.fit(set, { epochs: job.epochs, rate: job.rate });
  const anew = await again.training(training.entry.name);
  await anew.fit(set, { ...settings, epochs: 1, keepFeatures: false });
  const same = (a, b) => Buffer.compare(a, b) === 0;
  const result = {
    losses,
    before,
    heldOut,
    after: await training.evaluate(held),
    resumed: same(resumed.progress(), training.progress()),
    anew: same(anew.progress(), stored[0]),
  };
  await anew.applyDelta(training.delta());
  result.applied = same(anew.selected(), training.selected()) && anew.epoch === 0;
  await Promise.all([device.close(), again.close()]);
  return { ...result, closed: (await failure(() => device.score(set.samples)))?.code };
}

/** Outputs of the personal model with the new file of trained tensors. */
async function personal(device, training, samples, outputs) {
  const { entry } = training;
  const externalData = [{ path: entry.selected, data: training.selected() }];
  const { weights, inputs } = device.description;
  if (weights !== null) externalData.push({ path: weights, data: await device.file(weights) });
  const session = await ort.InferenceSession.create(await device.file(entry.model), {
    ...options.session,
    externalData,
  });
  const [{ name, shape }] = inputs;
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  const atOnce = device.description.forward_batch ?? samples.length / size;
  const numbers = [];
  for (let at = 0; at < samples.length; at += atOnce * size) {
    const some = new module.Tensor("float32", samples.slice(at, at + atOnce * size), [atOnce, ...shape.slice(1)]);
    numbers.push(...(await session.run({ [name]: some }))[Object.keys(outputs)[0]].data);
  }
  return Float32Array.from(numbers);
}

async function score() {
  const device = await opened();
  const samples = floats(job.x);
  const seen = [];
  const scores = await device.score(samples, { onProgress: (progress) => void seen.push(progress) });
  const { layers } = device.description.scoring;
  const bytes = layers.map(({ numbers }) => 4 * scores.samples * numbers);
  const distances = 4 * scores.samples ** 2;
  const half = Math.max(bytes.reduce((a, b) => a + b) / 2, ...bytes);
  const frugal = await device.score(samples, { memory: half + distances });
  const refused = await failure(() => device.score(samples, { memory: Math.max(...bytes) + distances - 1 }));
  const choices = job.choices.map((choice) => device.choose(scores, choice));
  return {
    scores,
    same: JSON.stringify(scores) === JSON.stringify(frugal),
    last: seen[seen.length - 1],
    refused,
    choices,
  };
}

/** Mistakes in calls and data, and the values that must not change. */
async function mistakes() {
  const device = await opened();
  const training = await device.training(device.description.entries[0].name);
  const set = data(job.x, job.y);
  const settings = { epochs: 2, batchSize: job.batch, rate: job.rate };
  const found = {};
  const fit = (given, more = {}) => failure(() => training.fit(given, { ...settings, ...more }));
  const { labels: port } = device.description;
  found.shape = await fit({ ...set, samples: set.samples.subarray(1) });
  found.type = await fit({ ...set, samples: Float64Array.from(set.samples) });
  found.named = await fit({ ...set, samples: { other: set.samples } });
  found.labels = await fit({ ...set, labels: set.labels.subarray(1) });
  found.range = await fit({ ...set, labels: set.labels.map((label, i) => (i === 5 ? BigInt(port.classes) : label)) });
  found.fraction = await fit({ ...set, labels: Array.from(set.labels, (label) => Number(label) + 0.5) });
  found.none = await fit({ samples: new Float32Array(0), labels: [] });
  found.rate = await fit(set, { rate: Number.NaN });
  found.batch = await fit(set, { batchSize: 0 });
  found.entry = await failure(() => device.training("none"));
  found.few = await failure(() => device.score(set.samples.subarray(0, (set.samples.length / set.labels.length) * 7)));
  found.nan = await failure(() => device.score(set.samples.map((x, i) => (i === 3 ? Number.NaN : x))));
  found.memory = await failure(async () => device.choose({ samples: 8, layers: [] }, { memory: 1 }));
  const untouched = Buffer.compare(training.selected(), await device.file(training.entry.selected)) === 0;
  await training.fit(set, { ...settings, epochs: 1 });
  const kept = training.progress();
  const unchanged = () => Buffer.compare(training.progress(), kept) === 0;
  const stays = {};
  found.diverged = await fit(set, { rate: 1e38 });
  stays.diverged = unchanged();
  const stop = new AbortController();
  found.cancelled = await fit(set, {
    signal: stop.signal,
    onStep: ({ step }) => void (step % 5 === 3 && stop.abort()),
  });
  stays.cancelled = unchanged();
  found.full = await fit(set, {
    onStep: () => Promise.reject(Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" })),
  });
  stays.full = unchanged();
  for await (const report of training.steps(set, settings)) {
    if (report.step % 5 !== 2) continue;
    found.busy = await fit(set);
    stays.paused = (await training.predict(set.samples.slice(0, set.samples.length / set.labels.length))) !== undefined;
    break;
  }
  stays.left = unchanged();
  const delta = training.delta();
  found.cut = await failure(() => training.applyDelta(delta.subarray(0, delta.length - 4)));
  found.flipped = await failure(() =>
    training.applyDelta(delta.map((byte, i) => (i === delta.length - 1 ? byte ^ 1 : byte))),
  );
  found.progress = await failure(() => training.resume(delta));
  found.foreign = await failure(async () => training.applyDelta(bytesOf(job.foreign)));
  stays.refused = unchanged();
  return { found, stays, untouched };
}

/** Delta of another package's entry. */
async function foreign() {
  const device = await opened();
  const training = await device.training(device.description.entries[0].name);
  writeFileSync(job.output, training.delta());
  return null;
}

/** Use damaged packages, by replacing files on reading. */
async function damaged() {
  const found = [];
  for (const { replaced } of job.cases) {
    const read = async (name) =>
      name in replaced ? Buffer.from(replaced[name], "base64") : readFile(join(job.package, name));
    let device = null;
    const error = await failure(async () => {
      device = await core.open(ort, { read }, options);
      const training = await device.training(device.description.entries[0].name);
      const set = data(job.x, job.y);
      await training.fit(set, { epochs: 1, batchSize: job.batch });
      await training.evaluate(set);
      await training.predict(set.samples);
      await device.score(set.samples);
    });
    await device?.close();
    found.push(error);
  }
  return found;
}

async function units() {
  const [random, hash, safetensors, scoring] = await Promise.all(
    ["random.js", "sha256.js", "safetensors.js", "scoring.js"].map(from),
  );
  const generator = new random.Random(0, 1);
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * 7) & 255);
  const lengths = [...Array(140).keys(), 1000];
  const tensors = [
    { name: "12", shape: [2, 3], data: Float32Array.from([1, 2, 3, 4, 5, 6]) },
    { name: 'ä"\u2028', shape: [], data: Float32Array.of(-0.5) },
    { name: "1", shape: [1], data: Float32Array.of(7) },
  ];
  const file = safetensors.written(tensors, { format: "test", schlüssel: "wert" });
  writeFileSync(job.file, file);
  const read = safetensors.parsed(file, "the file");
  const { pixels, width, height, cases } = job;
  return {
    numbers: [0, 1, 2, 3].map(() => generator.next()),
    shuffles: job.shuffles.map(([n, seed, stream]) => Array.from(random.shuffle(n, seed, stream))),
    subsets: job.subsets.map(([n, m, seed]) => Array.from(new random.Random(seed, 0).subset(n, m))),
    here: lengths.map((length) => hash.sha256Here(bytes.subarray(0, length))),
    crypto: await hash.sha256(bytes),
    read: read.tensors.map(({ name, shape, data }) => ({ name, shape, data: Array.from(data) })),
    metadata: read.metadata,
    distances: Array.from(scoring.distancesOf(Float32Array.from([0, 0, 3, 4, 6, 8]), 3, 2)),
    fed: cases.map(({ shape, rule }) =>
      Array.from(core.fedFromPixels(Uint8Array.from(pixels), width, height, shape, rule)),
    ),
    size: await failure(async () =>
      core.fedFromPixels(Uint8Array.from(pixels), height, width, cases[0].shape, cases[0].rule),
    ),
  };
}

/** Milliseconds of each step, and resident memory in MiB at some. */
async function measure() {
  const device = await opened();
  const training = await device.training(device.description.entries[0].name);
  const [times, memory] = [[], {}];
  let began = performance.now();
  const onStep = ({ step }) => {
    times.push(performance.now() - began);
    if (job.at.includes(step)) memory[step] = process.memoryUsage().rss / 2 ** 20;
    began = performance.now();
  };
  await training.fit(data(job.x, job.y), { epochs: job.epochs, batchSize: job.batch, rate: job.rate, onStep });
  return { times, memory };
}

const what = { measure, train, score, mistakes, foreign, damaged, units }[job.what];
const text = `${JSON.stringify(await what())}\n`;
process.stdout.write(text, () => process.exit(0)); // the web package keeps its worker alive
