import { plain } from "./bytes.js";
import type { Description } from "./description.js";
import { DeviceError, wrapped } from "./errors.js";
import { sha256 } from "./sha256.js";
import type { Source } from "./types.js";

/** Read a file from a source, without checking its content. */
export async function readFrom(source: Source, name: string): Promise<Uint8Array> {
  try {
    const bytes: unknown = await source.read(name);
    if (bytes instanceof Uint8Array) return plain(bytes);
  } catch (error) {
    const known = wrapped(error, `reading ${name}`);
    if (known.code !== "runtime") throw known;
    const why = error instanceof Error ? error.message : String(error);
    throw new DeviceError(
      "wrong-file",
      `${name} of the package cannot be read: ${why}. Fetch the package again.`,
      error,
    );
  }
  throw new DeviceError("wrong-file", `${name} of the package: the source did not return a Uint8Array.`);
}

/**
 * Read a file of the package and check its size and SHA-256.
 *
 * @throws DeviceError wrong-file: it is missing or has another size; wrong-hash: its content has changed
 */
export async function readChecked(source: Source, description: Description, name: string): Promise<Uint8Array> {
  const record = description.files.find((file) => file.name === name);
  if (record === undefined) throw new DeviceError("wrong-file", `The package has no file ${JSON.stringify(name)}.`);
  const bytes = await readFrom(source, name);
  if (bytes.length !== record.bytes) {
    throw new DeviceError(
      "wrong-file",
      `${name} has ${bytes.length} bytes, expected ${record.bytes}. Fetch the package again.`,
    );
  }
  if (description.entries.some(({ selected }) => selected === name)) return bytes; // rewritten for a personal model
  const found = await sha256(bytes);
  if (found !== record.sha256) {
    throw new DeviceError(
      "wrong-hash",
      `${name} has the SHA-256 ${found}, expected ${record.sha256}. Fetch the package again.`,
    );
  }
  return bytes;
}
