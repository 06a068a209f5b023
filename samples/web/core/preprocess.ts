import type { Preprocessing, Shape } from "./description.js";
import { DeviceError } from "./errors.js";
import { product } from "./numbers.js";

/**
 * Convert raw numbers to the model's input: (x * scale - mean) / std per channel, each operation rounded to float32.
 *
 * @param data numbers of whole samples, in the layout of the input; colours in the order red, green, blue
 * @param shape of the input
 * @param rule `description.preprocessing`; null leaves the numbers unchanged
 */
export function fedFromNumbers(data: ArrayLike<number>, shape: Shape, rule: Preprocessing | null): Float32Array {
  const fed = Float32Array.from(data);
  if (rule === null) return fed;
  const axis = rule.channel_axis;
  const channels = axis === null ? 1 : product(shape.slice(axis, axis + 1));
  const inner = axis === null ? 1 : product(shape.slice(axis + 1));
  const [mean, std] = [perChannel(rule.mean, channels, "mean"), perChannel(rule.std, channels, "std")];
  const scale = Math.fround(rule.scale);
  const source = rule.bgr && channels === 3 ? Float32Array.from(data) : fed;
  for (let i = 0; i < fed.length; i++) {
    const channel = Math.floor(i / inner) % channels;
    const from = source === fed ? i : i + (2 - 2 * channel) * inner;
    fed[i] = Math.fround(Math.fround(source[from] * scale) - mean[channel]) / std[channel];
  }
  return fed;
}

/**
 * Convert a picture to the model's input. Transparency is dropped; if the model has one channel, it is the luma (ITU-R
 * 601, as in Pillow).
 *
 * @param rgba four bytes per pixel, row by row, as from a canvas
 * @param width in pixels; must match the model: scale the picture first
 * @param height likewise
 * @param shape of the input: ["N", channels, height, width] or ["N", height, width, channels]
 * @param rule `description.preprocessing`; null: use 0 to 255
 * @throws DeviceError wrong-shape: the size of the picture differs from the input's
 */
export function fedFromPixels(
  rgba: Uint8Array | Uint8ClampedArray,
  width: number,
  height: number,
  shape: Shape,
  rule: Preprocessing | null,
): Float32Array {
  const axis = rule?.channel_axis ?? (shape[1] === 1 || shape[1] === 3 ? 1 : shape.length - 1);
  const channels = shape[axis];
  const [rows, columns] = shape.filter((_, i) => i !== 0 && i !== axis);
  if (shape.length !== 4 || (channels !== 1 && channels !== 3)) {
    throw new DeviceError("wrong-shape", `The model's input of shape [${shape.join(", ")}] cannot take pictures.`);
  }
  if (rows !== height || columns !== width || rgba.length !== 4 * width * height) {
    throw new DeviceError(
      "wrong-shape",
      `The picture has ${width} x ${height} pixels in ${rgba.length} bytes; the model takes ${columns} x ${rows} ` +
        "with 4 bytes per pixel. Scale it to that size first.",
    );
  }
  const pixels = width * height;
  const raw = new Uint8Array(pixels * channels);
  const [step, apart] = axis === 1 ? [1, pixels] : [channels, 1];
  for (let i = 0; i < pixels; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) raw[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    else [raw[i * step], raw[i * step + apart], raw[i * step + 2 * apart]] = [r, g, b];
  }
  return fedFromNumbers(raw, shape, rule);
}

/** One number for each channel, in float32. */
function perChannel(numbers: readonly number[], channels: number, what: string): Float32Array {
  if (numbers.length !== 1 && numbers.length !== channels) {
    throw new DeviceError(
      "wrong-file",
      `preprocessing has ${numbers.length} numbers for ${what}, but the input has ${channels} channels.`,
    );
  }
  return Float32Array.from({ length: channels }, (_, i) => numbers[numbers.length === 1 ? 0 : i]);
}
