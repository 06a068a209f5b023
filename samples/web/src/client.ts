/** The page's side of the worker. */

import workerUrl from "./worker.ts?worker&url";
import type { Answer, Call, News, Verbs } from "./protocol.js";

interface Waiting {
  readonly resolve: (result: never) => void;
  readonly reject: (error: Error) => void;
}

/** URLs of scripts that the page may load: only those of its own origin. */
export function trustedUrl(url: URL): string {
  if (url.origin !== location.origin) throw new Error(`${url} does not belong to this site.`);
  return (policy === null ? url.href : policy.createScriptURL(url.href)) as string;
}

interface Policies {
  createPolicy(
    name: string,
    rules: { createScriptURL(url: string): string },
  ): { createScriptURL(url: string): unknown };
}

const policies = (globalThis as { trustedTypes?: Policies }).trustedTypes;
const policy = policies?.createPolicy("adabet-onnx", { createScriptURL: (url) => url }) ?? null;

export type Call1 = <V extends keyof Verbs>(verb: V, ...given: Parameters<Verbs[V]>) => ReturnType<Verbs[V]>;

/** @param onNews called with the worker's notifications */
export function connect(onNews: (news: News) => void): Call1 {
  const url = new URL(workerUrl, location.href);
  // The worker's name tells it the site's folder: its own URL may differ when it comes from the cache.
  const worker = new Worker(trustedUrl(url), { type: "module", name: new URL("./", location.href).href });
  const waiting = new Map<number, Waiting>();
  let last = 0;
  worker.onmessage = ({ data }: MessageEvent<News | Answer>) => {
    if (data.kind !== "done" && data.kind !== "failed") return onNews(data);
    const one = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.kind === "done") one?.resolve(data.result as never);
    else one?.reject(new Error(data.message));
  };
  worker.onerror = (event) =>
    onNews({
      kind: "warning",
      text: `The worker failed: ${event.message || "it cannot be loaded"}. Load the page again.`,
    });
  return ((verb, ...given) =>
    new Promise((resolve, reject) => {
      last += 1;
      waiting.set(last, { resolve, reject });
      const bitmaps = given.flatMap((one) =>
        typeof ImageBitmap !== "undefined" && (one as { picture?: unknown } | null)?.picture instanceof ImageBitmap
          ? [(one as { picture: ImageBitmap }).picture]
          : [],
      );
      worker.postMessage({ id: last, verb, given } as Call, bitmaps);
    })) as Call1;
}
