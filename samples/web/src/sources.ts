/** Where packages come from: the site's own folder, or files that were dropped. */

import type { Source } from "../core/index.js";
import type { NamedFile } from "./protocol.js";

/** The content of site.json, next to index.html. */
export interface Site {
  readonly title: string;
  /** Folder of a package. */
  readonly package: string;
  /** File of example data, or null. */
  readonly example: string | null;
}

export async function fetched(url: string): Promise<Uint8Array> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${new URL(url).pathname}: the server responded with ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

export async function readSite(base: string): Promise<Site> {
  const site = JSON.parse(new TextDecoder().decode(await fetched(`${base}site.json`))) as { [key: string]: unknown };
  if (typeof site["package"] !== "string") throw new Error('site.json: "package" should be the name of a folder.');
  const example = typeof site["example"] === "string" ? site["example"] : null;
  return { title: String(site["title"] ?? ""), package: site["package"], example };
}

export function siteSource(base: string, folder: string): Source {
  return { read: (name) => fetched(`${base}${folder}/${encodeURIComponent(name)}`) };
}

export function fileSource(files: readonly NamedFile[]): Source {
  const byName = new Map(files.map(({ name, blob }) => [name, blob]));
  return {
    async read(name) {
      const blob = byName.get(name);
      if (blob === undefined) throw new Error("it is missing");
      return new Uint8Array(await blob.arrayBuffer());
    },
  };
}
