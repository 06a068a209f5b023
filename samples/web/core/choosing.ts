import type { Description, Entry } from "./description.js";
import { DeviceError } from "./errors.js";
import type { Candidate, Choice, ChooseOptions, Scores } from "./types.js";

/** Bytes that training an entry needs at a batch size. */
export function neededBytes(entry: Entry, batchSize: number): number {
  const pair = entry.memory.find(([batch]) => batch >= batchSize);
  if (pair !== undefined) return pair[1];
  const [batch, bytes] = entry.memory[entry.memory.length - 1];
  return Number((BigInt(bytes) * BigInt(batchSize) + BigInt(batch) - 1n) / BigInt(batch));
}

/**
 * Choose the entry with the highest score among those that fit.
 *
 * @throws DeviceError out-of-memory if none fits; its message states the memory of the smallest
 */
export function chosen(description: Description, scores: Scores, options: ChooseOptions = {}): Choice {
  const { memory = Number.POSITIVE_INFINITY, batchSize = description.training.batch_size } = options;
  if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
    throw new DeviceError("wrong-option", `batchSize is ${batchSize}; give a whole number of at least 1.`);
  }
  if (!(memory >= 0)) throw new DeviceError("wrong-option", `memory is ${memory}; give a number of bytes.`);
  const byLayer = new Map(scores.layers.map(({ name, score }) => [name, score]));
  const candidates = description.entries.map((entry): Candidate => {
    const bytes = neededBytes(entry, batchSize);
    const worth = entry.layers.reduce((sum, layer) => sum + (byLayer.get(layer) ?? 0), 0);
    return { entry: entry.name, worth, bytes, fits: bytes <= memory };
  });
  const [first, ...others] = candidates.filter(({ fits }) => fits);
  if (first === undefined) {
    const least = Math.min(...candidates.map(({ bytes }) => bytes));
    throw new DeviceError(
      "out-of-memory",
      `No entry fits in ${memory} bytes at a batch size of ${batchSize}: the smallest needs ${least}. ` +
        "Allow more memory, or use a smaller batchSize.",
    );
  }
  const better = (a: Candidate, b: Candidate) => b.worth > a.worth || (b.worth === a.worth && b.bytes < a.bytes);
  return { ...others.reduce((best, one) => (better(best, one) ? one : best), first), candidates };
}
