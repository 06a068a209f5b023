// node webgpu.mjs CHROMIUM JOB.json: train or run models on WebGPU in a real browser; print the results as JSON.
// The job: {bundle: file of onnxruntime-web, layout: "NCHW" or null, folder: artifacts, batches: {batches, rate}} to
// train, or {bundle, layout, models: [{name, model, feeds}]}; see gpu.mjs. Without a GPU Chromium computes on the CPU.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const [executablePath, file] = process.argv.slice(2);
const job = JSON.parse(await readFile(file, "utf8"));
const here = dirname(fileURLToPath(import.meta.url));
const types = { ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json" };
const page = `<!doctype html><script type="module">
import * as ort from "/ort/${job.bundle}";
import { runAll, train } from "/js/gpu.mjs";
const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
try {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/ort/";
  const { batches, models, layout } = await (await fetch("/job.json")).json();
  window.result = models
    ? { found: await runAll(ort, models, layout) }
    : await train(ort, (name) => bytes("/folder/" + name), batches, layout);
} catch (error) {
  window.result = { error: String(error) };
}
</script>`;

const roots = { ort: join(here, "node_modules/onnxruntime-web/dist"), js: here, folder: job.folder };
const server = createServer(async (request, response) => {
  if (request.url === "/") {
    response.writeHead(200, { "Content-Type": "text/html" }).end(page);
    return;
  }
  const [, root, ...rest] = decodeURIComponent(request.url).split("/");
  try {
    const path = root === "job.json" ? file : join(roots[root], normalize(rest.join("/")));
    const type = types[extname(path)] ?? "application/octet-stream";
    response.writeHead(200, { "Content-Type": type }).end(await readFile(path));
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--enable-unsafe-webgpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update",
  ],
});
const messages = [];
try {
  const tab = await browser.newPage();
  tab.on("console", (message) => messages.push(`${message.type()}: ${message.text()}`));
  tab.on("pageerror", (error) => messages.push(`error: ${error}`));
  await tab.goto(`http://127.0.0.1:${server.address().port}/`);
  const adapter = await tab.evaluate(async () => {
    const found = await navigator.gpu?.requestAdapter();
    return found ? `${found.info.vendor} ${found.info.architecture}`.trim() : null;
  });
  if (adapter !== null) await tab.waitForFunction("window.result !== undefined", undefined, { timeout: 580000 });
  const result = adapter === null ? {} : await tab.evaluate("window.result");
  console.log(JSON.stringify({ version: browser.version(), adapter, messages, ...result }));
} finally {
  await browser.close();
  server.close();
}
