// node chromium.mjs CHROMIUM FOLDER BATCHES.json: train in a real browser; print its version and the losses as JSON.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const [executablePath, folder, batches] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const types = { ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json" };
const page = `<!doctype html><script type="module">
import * as ort from "/ort/ort.wasm.min.mjs";
import { train } from "/js/train.mjs";
const load = async (name) => (await fetch(name)).arrayBuffer();
const json = async (name) => (await fetch(name)).json();
try {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/ort/";
  const manifest = { ...(await json("/folder/manifest.json")), providers: ["wasm"] };
  const given = await json("/batches.json");
  const files = { "state.bin": await load("/folder/state.bin") };
  for (const name of ["frozen.onnx", "step.onnx", "weights.bin"]) files[name] = new Uint8Array(await load("/folder/" + name));
  window.result = { losses: await train(ort, files, manifest, given.batches, given.rate) };
} catch (error) {
  window.result = { error: String(error) };
}
</script>`;

const roots = { ort: join(here, "node_modules/onnxruntime-web/dist"), js: here, folder };
const server = createServer(async (request, response) => {
  if (request.url === "/") {
    response.writeHead(200, { "Content-Type": "text/html" }).end(page);
    return;
  }
  const [, root, ...rest] = decodeURIComponent(request.url).split("/");
  try {
    const path = root === "batches.json" ? batches : join(roots[root], normalize(rest.join("/")));
    const type = types[extname(path)] ?? "application/octet-stream";
    response.writeHead(200, { "Content-Type": type }).end(await readFile(path));
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"],
});
try {
  const tab = await browser.newPage();
  await tab.goto(`http://127.0.0.1:${server.address().port}/`);
  await tab.waitForFunction("window.result !== undefined", undefined, { timeout: 120000 });
  console.log(JSON.stringify({ version: browser.version(), ...(await tab.evaluate("window.result")) }));
} finally {
  await browser.close();
  server.close();
}
