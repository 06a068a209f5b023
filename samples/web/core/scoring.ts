import { bettiNumbers } from "./betti.js";
import type { ScoredLayer, Scoring } from "./description.js";
import { DeviceError, checkSignal } from "./errors.js";
import { Random } from "./random.js";
import type { Inputs } from "./rows.js";
import type { Runner } from "./runner.js";
import type { LayerScore, Numbers, ScoreOptions, Scores } from "./types.js";

const FEWEST = 8;

/** Score layers: the number of loops that the samples form in each, relative to its size. */
export async function scored(
  runner: Runner,
  scoring: Scoring | null,
  inputs: Inputs,
  options: ScoreOptions,
): Promise<Scores> {
  if (scoring === null)
    throw new DeviceError("wrong-option", "The package has no graph for scoring. Create it with scoring.");
  const n = Math.min(scoring.samples, inputs.count);
  if (n < FEWEST)
    throw new DeviceError("too-few-samples", `${n} samples, but scoring needs at least ${FEWEST}. Add more.`);
  const subsets = subsetsOf(scoring, n);
  const groups = grouped(scoring.layers, n, options.memory ?? Number.POSITIVE_INFINITY);
  const layers: LayerScore[] = [];
  let passes = 0;
  for (const group of groups) {
    const passed = () => options.onProgress?.({ stage: "forward", done: (passes += 1), total: n * groups.length });
    const numbers = await forward(runner, scoring.file, group, inputs, n, options, passed);
    for (const layer of group) {
      checkSignal(options.signal, "scoring");
      const b1 = bettiNumbers(distancesOf(numbers.get(layer.name)!, n, layer.numbers), n, subsets);
      numbers.delete(layer.name);
      const points = subsets[0].length;
      const mean = b1.reduce((sum, one) => sum + one, 0) / b1.length;
      layers.push({ name: layer.name, score: mean / (points * layer.size), b1 });
      await options.onProgress?.({ stage: "count", done: layers.length, total: scoring.layers.length });
    }
  }
  return { samples: n, layers };
}

function subsetsOf({ points, subsets, seed }: Scoring, n: number): Uint32Array[] {
  const random = new Random(seed, 0);
  const p = Math.min(points, n);
  return Array.from({ length: p === n ? 1 : subsets }, () => random.subset(n, p));
}

/** Collects the numbers of layers, in groups that fit in memory. */
function grouped(layers: readonly ScoredLayer[], n: number, memory: number): ScoredLayer[][] {
  const groups: ScoredLayer[][] = [];
  const distances = 4 * n * n;
  let room = 0;
  for (const layer of layers) {
    const bytes = 4 * n * layer.numbers;
    if (bytes + distances > memory) {
      throw new DeviceError(
        "out-of-memory",
        `Scoring layer ${JSON.stringify(layer.name)} takes ${bytes + distances} bytes, ` +
          `more than the ${memory} allowed. Allow more memory.`,
      );
    }
    if (groups.length === 0 || bytes > room) {
      groups.push([]);
      room = memory - distances;
    }
    groups[groups.length - 1].push(layer);
    room -= bytes;
  }
  return groups;
}

/** The numbers of some layers, by name; samples are fed one at a time. */
async function forward(
  runner: Runner,
  file: string,
  layers: readonly ScoredLayer[],
  inputs: Inputs,
  n: number,
  { signal }: ScoreOptions,
  passed: () => void | Promise<void> | undefined,
): Promise<Map<string, Float32Array>> {
  const found = new Map(layers.map(({ name, numbers }) => [name, new Float32Array(n * numbers)]));
  const fetches = [...new Set(layers.map(({ output }) => output))];
  for (let i = 0; i < n; i++) {
    checkSignal(signal, "scoring");
    const feeds = await inputs.tensors([i]);
    await runner.run(
      file,
      () => feeds,
      fetches,
      (outputs) => {
        for (const { name, output, numbers } of layers) {
          const data = outputs[output].data as Numbers;
          if (data.length !== numbers) {
            throw new DeviceError(
              "wrong-file",
              `${file} returns ${data.length} numbers for layer ${JSON.stringify(name)}, expected ${numbers}. ` +
                "Fetch the package again.",
            );
          }
          const kept = found.get(name)!.subarray(i * numbers, (i + 1) * numbers);
          kept.set(data as Float32Array);
          if (!kept.every(Number.isFinite)) {
            throw new DeviceError(
              "not-finite",
              `Sample ${i} makes layer ${JSON.stringify(name)} NaN or infinite. Check the sample, or leave it out.`,
            );
          }
        }
        for (const tensor of Object.values(outputs)) tensor.dispose();
      },
    );
    for (const tensor of Object.values(feeds)) tensor.dispose();
    await passed();
  }
  return found;
}

/** Euclidean distances of n points, n x n: computed in double precision, rounded to float32. */
export function distancesOf(numbers: Float32Array, n: number, size: number): Float32Array {
  const found = new Float32Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) {
      let sum = 0;
      for (let k = 0, a = i * size, b = j * size; k < size; k++, a++, b++) {
        const apart = numbers[a] - numbers[b];
        sum += apart * apart;
      }
      found[i * n + j] = found[j * n + i] = Math.sqrt(sum);
    }
  }
  return found;
}
