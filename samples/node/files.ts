import { open as openFile, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Device, Labelled, Numbers, Port, Samples, Source } from "../web/core/index.js";
import { DeviceError, wrapped } from "../web/core/index.js";

/** A package in a folder. */
export function folder(path: string): Source {
  return { read: (name) => readFile(join(path, name)) };
}

/** Write a temporary file and rename it, so that either the old file or the complete new one exists. */
export async function replace(path: string, bytes: Uint8Array): Promise<void> {
  const part = `${path}.part`;
  try {
    const file = await openFile(part, "w");
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true });
    throw wrapped(error, `writing ${path}`);
  }
}

/** Check that a file can be written there, before a long computation whose result it will hold. */
export async function checkWritable(path: string): Promise<void> {
  const part = `${path}.part`;
  try {
    await (await openFile(part, "w")).close();
  } catch (error) {
    throw wrapped(error, `writing ${path}`);
  }
  await rm(part, { force: true });
}

/** The content of a file, or null if it does not exist. */
export async function readIfThere(path: string): Promise<Uint8Array | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return null;
    throw wrapped(error, `reading ${path}`);
  }
}

const ARRAYS: { readonly [dtype: string]: { readonly BYTES_PER_ELEMENT: number; new (buffer: ArrayBuffer): Numbers } } =
  {
    float32: Float32Array,
    float64: Float64Array,
    float16: Uint16Array,
    int8: Int8Array,
    int16: Int16Array,
    int32: Int32Array,
    int64: BigInt64Array,
    uint8: Uint8Array,
    uint16: Uint16Array,
    uint32: Uint32Array,
    uint64: BigUint64Array,
    bool: Uint8Array,
  };

/** Raw little-endian numbers. */
async function numbers(path: string, dtype: string): Promise<Numbers> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw new DeviceError(
      "wrong-file",
      `${path} cannot be read: ${error instanceof Error ? error.message : String(error)}.`,
      error,
    );
  });
  const kind = ARRAYS[dtype];
  if (bytes.length % kind.BYTES_PER_ELEMENT !== 0) {
    throw new DeviceError(
      "wrong-file",
      `${path} has ${bytes.length} bytes, expected a multiple of ${kind.BYTES_PER_ELEMENT} (${dtype}).`,
    );
  }
  return new kind(Uint8Array.from(bytes).buffer);
}

/** Samples from FILE, or from NAME=FILE for each input if the model has several. */
export async function samplesFrom({ description: { inputs } }: Device, given: readonly string[]): Promise<Samples> {
  if (inputs.length === 1 && given.length === 1) return numbers(fileOf(given[0], inputs[0]), inputs[0].dtype);
  const found: { [name: string]: Numbers } = {};
  for (const input of inputs) {
    const argument = given.find((text) => text.startsWith(`${input.name}=`));
    if (argument === undefined)
      throw new DeviceError("wrong-option", `Give ${input.name}=FILE for the input ${JSON.stringify(input.name)}.`);
    found[input.name] = await numbers(fileOf(argument, input), input.dtype);
  }
  return found;
}

function fileOf(argument: string, { name }: Port): string {
  return argument.startsWith(`${name}=`) ? argument.slice(name.length + 1) : argument;
}

/** Samples and their labels. */
export async function labelledFrom(device: Device, x: readonly string[], y: string): Promise<Labelled> {
  const labels = (await numbers(y, device.description.labels.dtype)) as BigInt64Array | Float32Array;
  return { samples: await samplesFrom(device, x), labels };
}
