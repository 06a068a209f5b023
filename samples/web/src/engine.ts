/** An open package on one runtime, with the entry in training and its initial values for comparison. */

import { DeviceError, open } from "../core/index.js";
import type { Device, Labelled, Samples, Source, Training } from "../core/index.js";
import { runtime } from "./runtime.js";
import type { Kind } from "./runtime.js";

export class Engine {
  private trained: Training | null = null;
  private untrained: Training | null = null;

  private constructor(
    readonly kind: Kind,
    readonly device: Device,
  ) {}

  static async open(kind: Kind, base: string, source: Source): Promise<Engine> {
    const { ort, options } = await runtime(kind, base);
    return new Engine(kind, await open(ort, source, options));
  }

  /** The training of an entry; that of another entry is closed. */
  async training(entry: string): Promise<Training> {
    if (this.trained?.entry.name !== entry) {
      await this.trained?.close();
      this.trained = await this.device.training(entry);
      this.untrained = await this.device.training(entry);
    }
    return this.trained;
  }

  /** Outputs with the initial values and with the current ones. */
  async predict(entry: string, samples: Samples): Promise<[number[], number[]]> {
    const training = await this.training(entry);
    const { outputs } = this.device.description;
    const output =
      outputs.find(({ role }) => role === "probabilities") ??
      outputs.find(({ role }) => role === "logits") ??
      outputs[0];
    const shares = async (one: Training) => {
      const numbers = Array.from((await one.predict(samples))[output.name].data as Float32Array);
      return output.role === "probabilities" ? numbers : softmax(numbers);
    };
    return [await shares(this.untrained!), await shares(training)];
  }

  close(): Promise<void> {
    return this.device.close();
  }
}

/**
 * Train two steps on both engines and compare the losses: the first checks the forward pass, the second the gradients.
 * The results are discarded.
 *
 * @returns null if they agree, else a description of the difference
 */
export async function disagreement(
  one: Engine,
  other: Engine,
  entry: string,
  data: Labelled,
  rate: number,
): Promise<string | null> {
  const [expected, found] = [await twoLosses(one, entry, data, rate), await twoLosses(other, entry, data, rate)];
  const apart = expected.map((loss, i) => Math.abs(loss - found[i]) / Math.max(Math.abs(loss), 1e-12));
  if (apart[0] <= 1e-4 && (apart.length < 2 || apart[1] <= 1e-3)) return null;
  return `losses of the first steps are ${shown(found)} on the GPU, ${shown(expected)} on the processor`;
}

async function twoLosses(engine: Engine, entry: string, data: Labelled, rate: number): Promise<number[]> {
  const training = await engine.training(entry);
  const kept = training.progress();
  const losses: number[] = [];
  for await (const report of training.steps(data, { epochs: training.epoch + 1, rate, keepFeatures: false })) {
    if (report.kind === "step") losses.push(report.loss);
    if (losses.length === 2) break;
  }
  await training.resume(kept);
  if (losses.length === 0) throw new DeviceError("runtime", "No training step ran.");
  return losses;
}

function shown(losses: readonly number[]): string {
  return losses.map((loss) => loss.toPrecision(6)).join(" and ");
}

function softmax(logits: readonly number[]): number[] {
  const most = Math.max(...logits);
  const shares = logits.map((logit) => Math.exp(logit - most));
  const sum = shares.reduce((a, b) => a + b, 0);
  return shares.map((share) => share / sum);
}
