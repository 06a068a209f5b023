// node node.mjs onnxruntime-node|onnxruntime-web FOLDER BATCHES.json: print version and losses as JSON.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

import { train } from "./train.mjs";

const [name, folder, batches] = process.argv.slice(2);
const ort = await import(name);
const manifest = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
if (name === "onnxruntime-web") {
  manifest.providers = ["wasm"];
  ort.env.wasm.numThreads = 1;
}
const bytes = (file) => new Uint8Array(readFileSync(join(folder, file)));
const web = name === "onnxruntime-web";
const files = { "state.bin": bytes("state.bin").buffer, "weights.bin": web ? bytes("weights.bin") : null };
for (const file of ["frozen.onnx", "step.onnx"]) files[file] = web ? bytes(file) : join(folder, file);
const given = JSON.parse(readFileSync(batches, "utf8"));
const losses = await train(ort, files, manifest, given.batches, given.rate);
const packageFile = join(createRequire(import.meta.url).resolve(name), "../../package.json");
console.log(JSON.stringify({ version: JSON.parse(readFileSync(packageFile, "utf8")).version, losses }));
process.exit(0); // the web package keeps its worker alive
