import type { Source } from "@adabet-onnx/core";
import { wrapped } from "@adabet-onnx/core";

/** The operations that the app's file system must provide: a few lines on top of expo-file-system or react-native-fs.
 * */
export interface FileSystem {
  /** The bytes of a file; rejects if there is none. */
  read(path: string): Promise<Uint8Array>;
  write(path: string, bytes: Uint8Array): Promise<void>;
  /** Rename a file, replacing an existing one. */
  move(from: string, to: string): Promise<void>;
  exists(path: string): Promise<boolean>;
  remove(path: string): Promise<void>;
}

/** A file system that reads and writes base64, such as the module react-native-fs. */
export interface Base64FileSystem {
  readFile(path: string, encoding: "base64"): Promise<string>;
  writeFile(path: string, contents: string, encoding: "base64"): Promise<void>;
  moveFile(from: string, to: string): Promise<void>;
  exists(path: string): Promise<boolean>;
  unlink(path: string): Promise<void>;
}

/** A package in a folder. Graphs are opened by path: this runtime ignores the options of a graph passed as bytes. */
export function folder(files: FileSystem, path: string): Source {
  return { read: (name) => files.read(`${path}/${name}`), locate: (name) => `${path}/${name}` };
}

/** Write a temporary file and rename it, so that either the old file or the complete new one exists. */
export async function replace(files: FileSystem, path: string, bytes: Uint8Array): Promise<void> {
  const part = `${path}.part`;
  try {
    await files.write(part, bytes);
    await files.move(part, path);
  } catch (error) {
    await files.remove(part).catch(() => undefined);
    throw wrapped(error, `writing ${path}`);
  }
}

/** A file system through base64. react-native-fs does not replace files when moving, so the old one is removed first.
 * */
export function fromBase64(system: Base64FileSystem): FileSystem {
  return {
    read: async (path) => decoded(await system.readFile(path, "base64")),
    write: (path, bytes) => system.writeFile(path, encoded(bytes), "base64"),
    move: async (from, to) => {
      if (await system.exists(to)) await system.unlink(to);
      await system.moveFile(from, to);
    },
    exists: (path) => system.exists(path),
    remove: (path) => system.unlink(path),
  };
}

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const PLACES = new Map([...LETTERS].map((letter, place) => [letter.charCodeAt(0), place]));

function encoded(bytes: Uint8Array): string {
  const parts: string[] = [];
  for (let at = 0; at < bytes.length; at += 3) {
    const left = bytes.length - at;
    const three = (bytes[at] << 16) | ((left > 1 ? bytes[at + 1] : 0) << 8) | (left > 2 ? bytes[at + 2] : 0);
    const letters = [18, 12, 6, 0].map((shift) => LETTERS[(three >> shift) & 63]);
    parts.push(letters.slice(0, left > 2 ? 4 : left + 1).join("").padEnd(4, "="));
  }
  return parts.join("");
}

function decoded(text: string): Uint8Array {
  const letters = text.replace(/[\r\n]|=+$/g, "");
  const bytes = new Uint8Array(Math.floor((letters.length * 3) / 4));
  let [bits, kept] = [0, 0];
  let at = 0;
  for (let i = 0; i < letters.length; i++) {
    const place = PLACES.get(letters.charCodeAt(i));
    if (place === undefined) throw new Error(`invalid base64 at character ${i}`);
    kept = ((kept << 6) | place) & 0xffff;
    bits += 6;
    if (bits >= 8) bytes[at++] = (kept >> (bits -= 8)) & 0xff;
  }
  return bytes;
}
