/* Serves the site from the browser's cache. The build writes FILES: path and digest of each file of the site. */

const FILES = new Map(__FILES__);
/* Large files that are rarely needed: cached after their first use. */
const LATER = new Map(__LATER__);
const NAME = "adabet-onnx-page";
const keyOf = (path) => `${self.registration.scope}${path}?digest=${FILES.get(path) ?? LATER.get(path)}`;

self.addEventListener("install", (event) => event.waitUntil(fill()));
self.addEventListener("activate", (event) => event.waitUntil(tidy()));
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || !url.href.startsWith(self.registration.scope)) return;
  const path =
    decodeURIComponent(url.href.slice(self.registration.scope.length).replace(/[?#].*$/, "")) || "index.html";
  if (FILES.has(path) || LATER.has(path)) event.respondWith(answer(path));
});

/** Files that are unchanged since an earlier version of the site are already in the cache. */
async function fill() {
  const cache = await caches.open(NAME);
  for (const path of FILES.keys()) {
    if ((await cache.match(keyOf(path))) === undefined) await cache.put(keyOf(path), await load(path));
  }
}

async function tidy() {
  const cache = await caches.open(NAME);
  const wanted = new Set([...FILES.keys(), ...LATER.keys()].map(keyOf));
  for (const { url } of await cache.keys()) if (!wanted.has(url)) await cache.delete(url);
  await self.clients.claim();
}

async function answer(path) {
  const cache = await caches.open(NAME);
  const kept = await cache.match(keyOf(path));
  if (kept !== undefined) return kept;
  const loaded = await load(path);
  await cache.put(keyOf(path), loaded.clone()).catch(() => undefined);
  return loaded;
}

async function load(path) {
  const response = await fetch(`${self.registration.scope}${path}`, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${path}: the server responded with ${response.status}`);
  return response;
}
