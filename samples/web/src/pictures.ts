/** Converts pictures from the page to the model's input. */

import { fedFromPixels } from "../core/index.js";
import type { Description } from "../core/index.js";
import type { Role } from "./protocol.js";

/** The picture format of a model. */
export interface Frame {
  readonly width: number;
  readonly height: number;
  readonly channels: number;
}

/** A labelled picture of the model's size; four bytes per pixel. */
export interface Picture {
  readonly name: string;
  readonly label: number;
  readonly role: Role;
  readonly rgba: Uint8ClampedArray<ArrayBuffer>;
}

/** The frame of a model of pictures with one label each, or why the model is not supported. */
export function frameOf(description: Description): Frame | string {
  const { inputs, labels, preprocessing, loss, forward_batch: batch } = description;
  const [input] = inputs;
  if (inputs.length !== 1 || input === undefined) return `the model has ${inputs.length} inputs`;
  const { shape, dtype } = input;
  const asked = `its input ${JSON.stringify(input.name)} is ${dtype} [${shape.join(", ")}]`;
  if (dtype !== "float32" || shape.length !== 4 || (shape[0] !== "N" && batch !== 1)) return asked;
  if (loss !== "cross-entropy" || labels.classes === null || labels.shape.length > 1)
    return `its loss is ${loss}, with labels [${labels.shape.join(", ")}]`;
  const axis = preprocessing?.channel_axis ?? (shape[1] === 1 || shape[1] === 3 ? 1 : shape.length - 1);
  const channels = shape[axis];
  const [height, width] = shape.filter((_, i) => i !== 0 && i !== axis);
  if ((channels !== 1 && channels !== 3) || typeof height !== "number" || typeof width !== "number") return asked;
  return { width, height, channels };
}

/** A picture scaled to fill the frame; the rest at two sides is cropped. */
export async function fitted(
  picture: Blob | ImageBitmap,
  { width, height }: Frame,
): Promise<Uint8ClampedArray<ArrayBuffer>> {
  const bitmap = picture instanceof Blob ? await createImageBitmap(picture) : picture;
  try {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true })!;
    context.imageSmoothingQuality = "high";
    const scale = Math.max(width / bitmap.width, height / bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
    return context.getImageData(0, 0, width, height).data;
  } finally {
    bitmap.close();
  }
}

/** Pictures in the form of the model's input, one after another. */
export function fed(
  pictures: readonly { readonly rgba: Uint8ClampedArray }[],
  description: Description,
  frame: Frame,
): Float32Array {
  const { width, height, channels } = frame;
  const size = width * height * channels;
  const all = new Float32Array(pictures.length * size);
  const shape = description.inputs[0].shape;
  pictures.forEach(({ rgba }, i) =>
    all.set(fedFromPixels(rgba, width, height, shape, description.preprocessing), i * size),
  );
  return all;
}

/** Read example data in the format of scripts/make_demo.py. */
export function readExample(bytes: Uint8Array, frame: Frame, classes: number): Picture[] {
  const wrong = (why: string) => new Error(`The example data cannot be used: ${why}. Make the site again.`);
  if (bytes.length < 28 || String.fromCharCode(...bytes.subarray(0, 4)) !== "ADBX") throw wrong("it has another format");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [version, height, width, channels, train, test] = Array.from({ length: 6 }, (_, i) =>
    view.getUint32(4 + 4 * i, true),
  );
  const count = train + test;
  const size = height * width * channels;
  if (version !== 1 || bytes.length !== 28 + count * (1 + size))
    throw wrong(`${bytes.length} bytes, version ${version}`);
  if (height !== frame.height || width !== frame.width || channels !== frame.channels)
    throw wrong(`its pictures are ${width} x ${height} x ${channels}`);
  return Array.from({ length: count }, (_, i) => {
    const label = bytes[28 + i];
    if (label >= classes) throw wrong(`picture ${i} has class ${label}`);
    const begin = 28 + count + i * size;
    return {
      name: `example ${i + 1}`,
      label,
      role: i < train ? "train" : "test",
      rgba: coloured(bytes.subarray(begin, begin + size), channels),
    };
  });
}

function coloured(pixels: Uint8Array, channels: number): Uint8ClampedArray<ArrayBuffer> {
  const rgba = new Uint8ClampedArray((pixels.length / channels) * 4).fill(255);
  for (let i = 0; i < pixels.length / channels; i++) {
    for (let c = 0; c < 3; c++) rgba[4 * i + c] = pixels[i * channels + (channels === 1 ? 0 : c)];
  }
  return rgba;
}

/**
 * The class of a folder, by the name or the number of the class.
 *
 * @param classes names; replaced by those of the folders if the model has none
 */
export function labelOf(folder: string, classes: readonly string[]): number | null {
  const asked = folder.trim().toLowerCase();
  const found = classes.findIndex((name) => name.trim().toLowerCase() === asked);
  if (found >= 0) return found;
  return /^\d{1,6}$/.test(asked) && Number(asked) < classes.length ? Number(asked) : null;
}
