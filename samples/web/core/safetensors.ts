import { decoded, encoded, plain } from "./bytes.js";
import { DeviceError } from "./errors.js";

/** A float32 tensor in a file. */
export interface StoredTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** A safetensors file: its metadata and tensors, and the bytes after the header. */
export interface Stored {
  readonly metadata: { readonly [key: string]: string };
  readonly tensors: readonly StoredTensor[];
  readonly body: Uint8Array;
}

const MAX_HEADER = 100_000_000; // the limit of the safetensors format

/** The concatenated bytes of tensors, which follow the header. */
export function bodyOf(tensors: readonly StoredTensor[]): Uint8Array {
  const body = new Uint8Array(tensors.reduce((sum, { data }) => sum + data.byteLength, 0));
  let at = 0;
  for (const { data } of tensors) {
    body.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return body;
}

/** Write a safetensors file with its data aligned to 64 bytes. */
export function written(tensors: readonly StoredTensor[], metadata: { readonly [key: string]: string }): Uint8Array {
  const entries: [string, unknown][] = [["__metadata__", metadata]];
  let end = 0;
  for (const { name, shape, data } of tensors) {
    entries.push([name, { dtype: "F32", shape, data_offsets: [end, (end += data.byteLength)] }]);
  }
  const json = encoded(
    `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(",")}}`,
  );
  const size = Math.ceil((8 + json.length) / 64) * 64 - 8;
  const file = new Uint8Array(8 + size + end).fill(0x20, 8, 8 + size);
  new DataView(file.buffer).setUint32(0, size, true);
  file.set(json, 8);
  file.set(bodyOf(tensors), 8 + size);
  return file;
}

/**
 * Read a safetensors file of float32 tensors; each is a copy.
 *
 * @param bytes the file
 * @param what name of the file for messages, such as "the delta"
 * @throws DeviceError wrong-file: it is not a valid file
 */
export function parsed(bytes: Uint8Array, what: string): Stored {
  const fail = (why: string): never => {
    throw new DeviceError("wrong-file", `${what} is not a valid safetensors file: ${why}. Download it again.`);
  };
  if (!(bytes instanceof Uint8Array) || bytes.length < 8) return fail("fewer than 8 bytes");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (size > MAX_HEADER || 8 + size > bytes.length) fail(`a header of ${size} bytes in a file of ${bytes.length}`);
  let header: unknown;
  try {
    header = JSON.parse(decoded(bytes.subarray(8, 8 + size)));
  } catch {
    fail("the header is not JSON");
  }
  if (!isObject(header)) return fail("the header is not a JSON object");
  const body = plain(bytes).slice(8 + size);
  const metadata = header["__metadata__"] ?? {};
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== "string")) {
    return fail("__metadata__ has values that are not strings");
  }
  const tensors: (StoredTensor & { begin: number; end: number })[] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: offsets } = isObject(value) ? value : ({} as { [key: string]: unknown });
    if (dtype !== "F32") fail(`tensor ${JSON.stringify(name)} is ${String(dtype)}, expected F32`);
    if (!isCounts(shape) || !isCounts(offsets) || offsets.length !== 2)
      return fail(`tensor ${JSON.stringify(name)} has no shape or offsets`);
    const [begin, end] = offsets as [number, number];
    const expected = 4 * shape.reduce((a, b) => a * b, 1);
    if (end - begin !== expected || end > body.length) {
      fail(
        `tensor ${JSON.stringify(name)} of shape [${shape.join(", ")}] lies from ${begin} to ${end} ` +
          `of ${body.length} bytes`,
      );
    }
    tensors.push({ name, shape, data: new Float32Array(body.slice(begin, end).buffer), begin, end });
  }
  const ordered = [...tensors].sort((a, b) => a.begin - b.begin || a.end - b.end);
  const last = ordered.reduce((end, tensor) => (tensor.begin === end ? tensor.end : Number.NaN), 0);
  if (last !== body.length) fail("its tensors do not fill the file");
  return { metadata: metadata as { [key: string]: string }, tensors, body };
}

function isObject(value: unknown): value is { [key: string]: unknown } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && (item as number) >= 0);
}
