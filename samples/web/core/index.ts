/**
 * Score, train and use a device package (docs/device-package.md) with any ONNX Runtime for JavaScript: in a browser, in
 * node, in React Native. Nothing here accesses a page, a file or the network: the program provides a source of bytes.
 *
 * @example
 * import * as ort from "onnxruntime-web";
 * import { open } from "@adabet-onnx/core";
 *
 * const read = async (name) => new Uint8Array(await (await fetch(`device/${name}`)).arrayBuffer());
 * const device = await open(ort, { read }, { executionProviders: ["wasm"] });
 * const scores = await device.score(samples);                        // a Float32Array, one sample after another
 * const { entry } = device.choose(scores, { memory: 64 * 2 ** 20 });
 * const training = await device.training(entry);
 * await training.fit({ samples, labels }, { onEpoch: (report) => store(report.progress) });
 * const outputs = await training.predict(samples);                   // { logits: { data, shape } }
 * const delta = training.delta();                                    // to be sent
 * await device.close();
 */
export { open } from "./device.js";
export { DeviceError, wrapped } from "./errors.js";
export type { ErrorCode, Signal } from "./errors.js";
export { fedFromPixels, fedFromNumbers } from "./preprocess.js";
export type * from "./description.js";
export type * from "./types.js";
