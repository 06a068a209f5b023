// A static server on loopback for a built site, with only its files, like any web host.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";

const types = {
  ".css": "text/css",
  ".html": "text/html",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
  ".webmanifest": "application/manifest+json",
};

/** Serve a folder below /page/; `bytes` counts the bytes sent; while `down`, requests get no answer. */
export async function serve(folder) {
  const sent = { bytes: 0, down: false };
  const server = createServer(async (request, response) => {
    if (sent.down) return request.socket.destroy();
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    try {
      if (!path.startsWith("/page/")) throw new Error(path);
      const name =
        normalize(path.slice("/page/".length)) === "." ? "index.html" : normalize(path.slice("/page/".length));
      const body = await readFile(join(folder, name));
      sent.bytes += body.length;
      response.writeHead(200, { "Content-Type": types[extname(name)] ?? "application/octet-stream" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/page/`, sent, close: () => server.close() };
}
