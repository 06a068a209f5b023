import type { Description, Entry, TensorRecord } from "./description.js";
import { DeviceError } from "./errors.js";
import { bodyOf, parsed, written } from "./safetensors.js";
import type { StoredTensor } from "./safetensors.js";
import { sha256, sha256Here } from "./sha256.js";
import { checkFinite } from "./values.js";

type Metadata = { readonly [key: string]: string };

/** The position in training that a progress file holds. */
export interface Place {
  readonly epoch: number;
  readonly step: number;
  readonly seed: number;
  readonly batchSize: number;
}

/** Write a delta: the trained values as a file. */
export function deltaFile(description: Description, entry: Entry, tensors: readonly StoredTensor[]): Uint8Array {
  return carried("adabet-onnx/delta", description, entry, tensors, {});
}

/** Write a progress file: all values, and the position in training. */
export function progressFile(
  description: Description,
  sha256OfPackage: string,
  entry: Entry,
  tensors: readonly StoredTensor[],
  { epoch, step, seed, batchSize }: Place,
): Uint8Array {
  const place = {
    package: sha256OfPackage,
    epoch: `${epoch}`,
    step: `${step}`,
    seed: `${seed}`,
    batch_size: `${batchSize}`,
  };
  return carried("adabet-onnx/progress", description, entry, tensors, place);
}

function carried(
  format: string,
  { model_sha256 }: Description,
  entry: Entry,
  tensors: readonly StoredTensor[],
  more: Metadata,
): Uint8Array {
  const sum = sha256Here(bodyOf(tensors));
  return written(tensors, { format, version: "1", model_sha256, entry: entry.name, sha256: sum, ...more });
}

/** The tensors of a delta, checked against its entry. */
export async function readDelta(
  bytes: Uint8Array,
  description: Description,
  entry: Entry,
  records: readonly TensorRecord[],
): Promise<readonly StoredTensor[]> {
  return (await read(bytes, "adabet-onnx/delta", "The delta", description, entry, records)).tensors;
}

/** The tensors of a progress file, checked against package and entry, and the position in training. */
export async function readProgress(
  bytes: Uint8Array,
  description: Description,
  sha256OfPackage: string,
  entry: Entry,
): Promise<{ readonly tensors: readonly StoredTensor[]; readonly place: Place }> {
  const what = "The progress";
  const { tensors, metadata } = await read(bytes, "adabet-onnx/progress", what, description, entry, entry.tensors);
  if (metadata["package"] !== sha256OfPackage) {
    throw new DeviceError(
      "wrong-model",
      `${what} belongs to another package (device.json ${metadata["package"]}, here ${sha256OfPackage}). ` +
        "Start again, or open that package.",
    );
  }
  const whole = (key: string, least: number): number => {
    const text = metadata[key] ?? "";
    const number = /^-?\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (number >= least) return number;
    throw new DeviceError(
      "wrong-file",
      `${what} has ${JSON.stringify(text)} as ${key}, expected a whole number of at least ${least}. Start again.`,
    );
  };
  const place = {
    epoch: whole("epoch", 0),
    step: whole("step", 0),
    seed: whole("seed", -Number.MAX_SAFE_INTEGER),
    batchSize: whole("batch_size", 1),
  };
  return { tensors, place };
}

async function read(
  bytes: Uint8Array,
  format: string,
  what: string,
  description: Description,
  entry: Entry,
  records: readonly TensorRecord[],
) {
  const { metadata, tensors, body } = parsed(bytes, what);
  const found = `${metadata["format"]} ${metadata["version"]}`;
  if (found !== `${format} 1`)
    throw new DeviceError("wrong-file", `${what} is a file of format ${found}, expected ${format} 1.`);
  if (metadata["model_sha256"] !== description.model_sha256) {
    throw new DeviceError(
      "wrong-model",
      `${what} belongs to another model (SHA-256 ${metadata["model_sha256"]}, here ${description.model_sha256}).`,
    );
  }
  if (metadata["entry"] !== entry.name) {
    throw new DeviceError(
      "wrong-model",
      `${what} is for entry ${JSON.stringify(metadata["entry"])}, expected ${JSON.stringify(entry.name)}: ` +
        "train that one.",
    );
  }
  const sum = await sha256(body);
  if (sum !== metadata["sha256"]) {
    throw new DeviceError(
      "wrong-hash",
      `${what} has data with the SHA-256 ${sum}, expected ${metadata["sha256"]}: it is damaged. Download it again.`,
    );
  }
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const [names, expected] = [tensors.map(({ name }) => name), records.map(({ name }) => name)];
  const odd = expected.find((name) => !byName.has(name)) ?? names.find((name) => !expected.includes(name));
  if (odd !== undefined) {
    throw new DeviceError(
      "wrong-shape",
      `${what} has ${tensors.length} tensors, the entry ${records.length}; ${JSON.stringify(odd)} is not in both.`,
    );
  }
  for (const { name, shape } of records) {
    const tensor = byName.get(name)!;
    if (String(tensor.shape) !== String(shape)) {
      throw new DeviceError(
        "wrong-shape",
        `${what} has ${JSON.stringify(name)} of shape [${tensor.shape.join(", ")}], expected [${shape.join(", ")}].`,
      );
    }
    checkFinite(tensor.data, name, "not-finite", "It is damaged: create it again.");
  }
  return { metadata, tensors };
}
