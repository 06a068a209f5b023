import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = dirname(fileURLToPath(import.meta.url));
const runtime = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
const BASIC = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
const GPU = ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"];

/** Copies ONNX Runtime's files unchanged to ort/. */
function ort() {
  return {
    name: "ort",
    configureServer(server) {
      server.middlewares.use("/ort", (request, response, next) => {
        const name = (request.url ?? "").replace(/^\//, "").replace(/\?.*$/, "");
        if (![...BASIC, ...GPU].includes(name)) return next();
        response.setHeader("Content-Type", name.endsWith(".wasm") ? "application/wasm" : "text/javascript");
        response.end(readFileSync(join(runtime, name)));
      });
    },
    writeBundle({ dir }) {
      const folder = join(dir, "ort");
      mkdirSync(folder, { recursive: true });
      for (const name of [...BASIC, ...GPU]) copyFileSync(join(runtime, name), join(folder, name));
    },
  };
}

/** Writes sw.js with the list of all files of the site. */
function serviceWorker() {
  let folder = "";
  return {
    name: "service-worker",
    configResolved({ root, build, command }) {
      folder = join(root, build.outDir);
      if (command === "build" && !existsSync(join(root, "public/site.json"))) {
        throw new Error("public/site.json is missing: run `npm run demo`, or put a package there (README.md).");
      }
    },
    closeBundle() {
      const later = GPU.map((name) => `ort/${name}`);
      const listed = files(folder)
        .map((path) => [path, digest(join(folder, path))])
        .filter(([path]) => path !== "sw.js");
      const code = readFileSync(join(here, "src/sw.js"), "utf8")
        .replace("__FILES__", () => JSON.stringify(listed.filter(([path]) => !later.includes(path))))
        .replace("__LATER__", () => JSON.stringify(listed.filter(([path]) => later.includes(path))));
      writeFileSync(join(folder, "sw.js"), code);
    },
  };
}

function files(folder, below = folder) {
  return readdirSync(below)
    .sort()
    .flatMap((name) =>
      statSync(join(below, name)).isDirectory()
        ? files(folder, join(below, name))
        : [relative(folder, join(below, name)).replaceAll("\\", "/")],
    );
}

function digest(path) {
  return createHash("sha256").update(readFileSync(path)).digest("hex").slice(0, 16);
}

export default defineConfig({
  base: "./",
  plugins: [ort(), serviceWorker()],
  build: { target: "es2022", modulePreload: false, assetsInlineLimit: 0 },
  worker: { format: "es" },
});
