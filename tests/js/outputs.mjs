// node outputs.mjs onnxruntime-node|onnxruntime-web JOBS.json: run models on one input each and write their outputs.
// A job has model (a path), external (names of files beside it), x (a file of float32), shape and output (a path).
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const [name, jobs] = process.argv.slice(2);
const ort = await import(name);
const web = name === "onnxruntime-web";
if (web) ort.env.wasm.numThreads = 1;
for (const job of JSON.parse(readFileSync(jobs, "utf8"))) {
  const bytes = (file) => new Uint8Array(readFileSync(file));
  const options = { executionProviders: [web ? "wasm" : "cpu"] };
  if (web) options.externalData = job.external.map((path) => ({ path, data: bytes(join(dirname(job.model), path)) }));
  const session = await ort.InferenceSession.create(web ? bytes(job.model) : job.model, options);
  const x = new Float32Array(bytes(job.x).buffer);
  const found = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", x, job.shape) });
  writeFileSync(job.output, new Uint8Array(found[session.outputNames[0]].data.slice().buffer));
}
process.exit(0); // the web package keeps its worker alive
