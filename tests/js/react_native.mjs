// node react_native.mjs FOLDER JOB.json: samples/react-native, compiled into FOLDER, with a binding that handles arrays
// and models like the C++ files of onnxruntime-react-native; prints JSON.
//
// - A tensor is read from the beginning of its buffer, whatever the array's offset (TensorUtils.cpp).
// - A model passed as bytes is the whole buffer, and options are ignored (InferenceSessionHostObject.cpp); a path may
//   begin with file://.
// - Outputs are new arrays, each with a buffer of its own.

import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import * as native from "onnxruntime-node";

const [compiled, jobFile] = process.argv.slice(2);
const from = (name) => import(pathToFileURL(join(compiled, name)));
const { Session } = await from("react-native/session.js");
const { fromBase64, replace } = await from("react-native/files.js");
const job = JSON.parse(readFileSync(jobFile, "utf8"));

const opened = []; // how each model was passed

function whole(tensor) {
  const { data, dims, type } = tensor;
  const count = dims.reduce((a, b) => a * b, 1);
  return new native.Tensor(type, new data.constructor(data.buffer, 0, count), dims);
}

class InferenceSession {
  static async create(model, options = {}) {
    opened.push(typeof model);
    const session =
      typeof model === "string"
        ? await native.InferenceSession.create(model.replace(/^file:\/\//, ""), options)
        : await native.InferenceSession.create(new Uint8Array(model.buffer));
    return Object.assign(new InferenceSession(), { session });
  }

  get inputNames() {
    return this.session.inputNames;
  }

  get outputNames() {
    return this.session.outputNames;
  }

  async run(feeds, fetches) {
    const fed = Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, whole(tensor)]));
    const found = await this.session.run(fed, fetches);
    return Object.fromEntries(
      Object.entries(found).map(([name, { type, data, dims }]) => [name, new native.Tensor(type, data.slice(), dims)]),
    );
  }

  release() {
    return this.session.release();
  }
}

const ort = { InferenceSession, Tensor: native.Tensor };

const path = (uri) => uri.replace(/^file:\/\//, "");
const files = {
  read: async (uri) => new Uint8Array(readFileSync(path(uri))),
  write: async (uri, bytes) => writeFileSync(path(uri), bytes),
  move: async (a, b) => renameSync(path(a), path(b)),
  exists: async (uri) => existsSync(path(uri)),
  remove: async (uri) => rmSync(path(uri)),
};
const base64 = fromBase64({
  readFile: async (uri, encoding) => readFileSync(path(uri)).toString(encoding),
  writeFile: async (uri, text, encoding) => writeFileSync(path(uri), Buffer.from(text, encoding)),
  moveFile: async (a, b) => {
    if (existsSync(path(b))) throw new Error("there is a file of that name");
    renameSync(path(a), path(b));
  },
  exists: files.exists,
  unlink: files.remove,
});

const numbers = (file, kind) => new kind(new Uint8Array(readFileSync(file)).buffer);
const data = () => ({ samples: numbers(job.x, Float32Array), labels: numbers(job.y, BigInt64Array) });
const settings = { epochs: job.epochs, batchSize: job.batch, rate: job.rate, seed: job.seed };

function own(name) {
  const folder = join(job.output, name);
  mkdirSync(folder, { recursive: true });
  return folder;
}

const start = (system, folder) => Session.open(ort, system, `file://${job.package}`, `file://${folder}`);

/** Train, with and without a stop in between, and use the result. */
async function train() {
  const session = await start(files, own("whole"));
  const { name } = session.device.description.entries[0];
  const losses = [];
  const onReport = (report) => report.kind === "step" && losses.push(report.loss);
  const { training, delta } = await session.train(name, data(), { ...settings, onReport });
  const held = numbers(job.heldX, Float32Array);
  const after = await training.evaluate({ samples: held, labels: numbers(job.heldY, BigInt64Array) });
  const [output] = Object.values(await training.predict(held));
  await session.close();
  return { losses, after, delta: path(delta), predicted: [...output.data], stopped: await stopped(name), opened };
}

/** Stop in the second epoch, then resume, with files as base64. */
async function stopped(name) {
  const folder = own("stopped");
  const first = await start(base64, folder);
  const onReport = (report) => report.kind === "step" && report.epoch === 2 && first.stop();
  const code = await first.train(name, data(), { ...settings, onReport }).then(
    () => "none",
    (error) => error.code,
  );
  await first.close();
  const left = existsSync(join(folder, "training.progress"));
  const second = await start(base64, folder);
  let steps = 0;
  const count = (report) => void (steps += report.kind === "step");
  const { delta } = await second.train(name, data(), { ...settings, onReport: count });
  await second.close();
  return { code, left, steps, delta: path(delta), progress: existsSync(join(folder, "training.progress")) };
}

/** Unusable progress does not prevent training. */
async function anew() {
  const folder = own("anew");
  writeFileSync(join(folder, "training.progress"), "this is no progress");
  const session = await start(files, folder);
  let steps = 0;
  const onReport = (report) => void (steps += report.kind === "step");
  await session.train(session.device.description.entries[0].name, data(), { ...settings, onReport });
  await session.close();
  return { steps, progress: existsSync(join(folder, "training.progress")) };
}

/** While it is paused, no step runs. */
async function pause() {
  const session = await start(files, own("paused"));
  const { name } = session.device.description.entries[0];
  let steps = 0;
  const onReport = (report) => {
    if (report.kind === "step" && ++steps === 3) session.pause();
  };
  const done = session.train(name, data(), { ...settings, onReport });
  while (steps < 3) await new Promise((resolve) => setTimeout(resolve, 1));
  await new Promise((resolve) => setTimeout(resolve, 100));
  const paused = steps;
  session.resume();
  await done;
  await session.close();
  return { paused, steps };
}

/** A graph fed with a view into a longer array, which this binding reads incorrectly. */
async function views() {
  const session = await start(files, own("views"));
  const { description } = session.device;
  const [{ name, shape }] = description.inputs;
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  const all = data().samples;
  const graph = await InferenceSession.create(join(job.package, description.scoring.file));
  const tell = async (array) => {
    const found = await graph.run({ [name]: new native.Tensor("float32", array, [1, ...shape.slice(1)]) }, graph.outputNames);
    return [...Object.values(found)[0].data];
  };
  const [view, copy, first] = [all.subarray(size, 2 * size), all.slice(size, 2 * size), all.slice(0, size)];
  return { view: await tell(view), copy: await tell(copy), first: await tell(first) };
}

async function choose() {
  const session = await start(files, own("chosen"));
  const seen = [];
  const choice = await session.choose(data().samples, job.memory, (done, of) => seen.push([done, of]));
  const scores = await session.device.score(data().samples);
  const { width, height } = session.pictureSize;
  const rgba = Uint8Array.from({ length: 4 * width * height }, (_, i) => (7 * i) % 256);
  const pictures = session.samples([{ rgba, width, height }, { rgba: rgba.map((v) => 255 - v), width, height }]);
  await session.close();
  return { choice, seen: seen.length, scores: scores.layers, width, height, pictures: [...pictures] };
}

/** If writing fails, the old file remains, and no temporary file is left. */
async function full() {
  const folder = own("full");
  const file = join(folder, "file");
  await replace(files, file, Uint8Array.of(1, 2, 3));
  const broken = { ...files, write: (uri) => (writeFileSync(uri, "half"), Promise.reject(new Error("ENOSPC: no space left"))) };
  const code = await replace(broken, file, Uint8Array.of(4)).then(
    () => "none",
    (error) => error.code,
  );
  const bytes = [0, 1, 2, 3, 4, 5, 255, 256, 1000].map((count) => Uint8Array.from({ length: count }, (_, i) => (31 * i) % 256));
  let same = true;
  for (const each of bytes) {
    await replace(base64, `${file}64`, each);
    same &&= Buffer.compare(readFileSync(`${file}64`), each) === 0 && Buffer.compare(await base64.read(`${file}64`), each) === 0;
  }
  return { code, kept: [...readFileSync(file)], beside: existsSync(`${file}.part`), same };
}

/** The functions of docs/app-react-native.md. */
async function page() {
  const { expoFiles, opened, fed, personalised, classes } = await from("page.js");
  class File {
    constructor(uri) {
      this.path = path(uri);
    }

    get exists() {
      return existsSync(this.path);
    }

    bytes = async () => new Uint8Array(readFileSync(this.path));
    create = () => writeFileSync(this.path, "");
    write = (bytes) => writeFileSync(this.path, bytes);
    move = (to) => renameSync(this.path, to.path);
    delete = () => rmSync(this.path);
  }
  const documents = own("documents");
  cpSync(job.package, join(documents, "device"), { recursive: true });
  const session = await opened(ort, expoFiles(File), documents);
  const { width, height } = session.pictureSize;
  const { samples, labels } = data();
  const lines = [];
  const log = console.log;
  console.log = (line) => lines.push(line);
  const { training, delta } = await personalised(session, samples, [...labels].map(Number), 1e9);
  console.log = log;
  const found = await classes(training, samples);
  const one = fed(session, [new Uint8Array(4 * width * height)]);
  await session.close();
  return { classes: found, delta, epochs: lines.length, fed: one.length };
}

console.log(JSON.stringify(await { train, anew, pause, views, choose, full, page }[job.what]()));
