/** Loads ONNX Runtime from the site's own folder ort/: for WebAssembly and, only on request, for WebGPU. */

import type { OpenOptions, Ort } from "../core/index.js";

type Web = Ort & { readonly env: { readonly wasm: { numThreads?: number; wasmPaths?: string } } };
export type Kind = "wasm" | "webgpu";

export interface Runtime {
  readonly ort: Ort;
  readonly options: OpenOptions;
}

const loaded = new Map<Kind, Promise<Runtime>>();

/** @param base the site's folder */
export function runtime(kind: Kind, base: string): Promise<Runtime> {
  const found = loaded.get(kind) ?? load(kind, base);
  loaded.set(kind, found);
  found.catch(() => loaded.delete(kind));
  return found;
}

async function load(kind: Kind, base: string): Promise<Runtime> {
  const ort = (await import(/* @vite-ignore */ `${base}ort/ort.${kind}.min.mjs`)) as Web;
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = `${base}ort/`;
  if (kind === "wasm") return { ort, options: { executionProviders: ["wasm"] } };
  // With the other layout, the provider computes some convolutions incorrectly.
  // Some integer operators run on the processor; the runtime would warn about each.
  const session = { logSeverityLevel: 3 } as const;
  return {
    ort,
    options: { executionProviders: [{ name: "webgpu", preferredLayout: "NCHW" }], keepOnDevice: true, session },
  };
}

/** Whether the browser has a GPU to compute on. */
export async function hasGpu(): Promise<boolean> {
  const { gpu } = navigator as { gpu?: { requestAdapter(): Promise<unknown> } };
  return gpu !== undefined && (await gpu.requestAdapter().catch(() => null)) !== null;
}
