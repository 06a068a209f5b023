import { deltaFile, progressFile, readDelta, readProgress } from "./carried.js";
import type { Place } from "./carried.js";
import type { Description, Entry } from "./description.js";
import { DeviceError, checkSignal, guarded, wrapped } from "./errors.js";
import type { Signal } from "./errors.js";
import { evaluated } from "./evaluating.js";
import { Features } from "./features.js";
import { predicted } from "./predicting.js";
import { shuffle } from "./random.js";
import { CheckedLabels, Inputs } from "./rows.js";
import type { Runner } from "./runner.js";
import type {
  EpochReport,
  Evaluation,
  FitOptions,
  FitResult,
  Labelled,
  Output,
  Samples,
  StepReport,
  StepsOptions,
  Training,
} from "./types.js";
import { Values } from "./values.js";

const MOST_SAMPLES = 2 ** 21; // the order is exact up to this number

/** Data for training or evaluation, in the types of the graphs. */
interface Set {
  readonly features: Features;
  readonly labels: CheckedLabels;
}

interface Settings extends Place {
  readonly epochs: number;
  readonly rate: number;
}

/** See `Training`. */
export class EntryTraining implements Training {
  private place: Place;
  private busy = false;

  private constructor(
    private readonly runner: Runner,
    private readonly description: Description,
    private readonly sha256: string,
    readonly entry: Entry,
    private readonly values: Values,
  ) {
    this.place = this.start();
  }

  static async begin(runner: Runner, description: Description, sha256: string, entry: Entry): Promise<EntryTraining> {
    const values = new Values(runner, entry, await runner.file(entry.state));
    return new EntryTraining(runner, description, sha256, entry, values);
  }

  get epoch(): number {
    return this.place.epoch;
  }

  get step(): number {
    return this.place.step;
  }

  async fit(data: Labelled, options: FitOptions = {}): Promise<FitResult> {
    const losses: number[] = [];
    let heldOut: Evaluation | null = null;
    await guarded("training", async () => {
      for await (const report of this.steps(data, options)) {
        if (report.kind === "step") await options.onStep?.(report);
        else {
          losses.push(report.loss);
          heldOut = report.heldOut;
          await options.onEpoch?.(report);
        }
      }
    });
    return { epochs: this.epoch, steps: this.step, losses, heldOut };
  }

  async *steps(data: Labelled, options: StepsOptions = {}): AsyncGenerator<StepReport | EpochReport, void, undefined> {
    if (this.busy)
      throw new DeviceError(
        "busy",
        `Entry ${JSON.stringify(this.entry.name)} is being trained: wait, or stop it first.`,
      );
    this.busy = true;
    try {
      const settings = this.settings(options);
      const held = options.heldOut === undefined ? null : await this.set(options.heldOut, settings.batchSize, options);
      const set = await this.set(data, settings.batchSize, options);
      this.place = { ...this.place, seed: settings.seed, batchSize: settings.batchSize };
      while (this.epoch < settings.epochs) {
        const loss = yield* this.oneEpoch(set, settings, options.signal);
        const heldOut = held === null ? null : await this.evaluateSet(held, settings.batchSize, options.signal);
        yield { kind: "epoch", epoch: this.epoch, step: this.step, loss, heldOut, progress: this.progress() };
      }
    } catch (error) {
      throw wrapped(error, "training");
    } finally {
      await this.runner.inTurn(async () => this.values.rollback()).catch(() => undefined);
      this.busy = false;
    }
  }

  evaluate(data: Labelled, options: { batchSize?: number; signal?: Signal } = {}): Promise<Evaluation> {
    return guarded("evaluating", async () => {
      const batchSize = this.batchSize(options.batchSize);
      const set = await this.set(data, batchSize, { ...options, keepFeatures: false });
      return this.evaluateSet(set, batchSize, options.signal);
    });
  }

  predict(
    samples: Samples,
    options: { batchSize?: number; signal?: Signal } = {},
  ): Promise<{ readonly [output: string]: Output }> {
    return guarded("predicting", async () => {
      const batchSize = this.description.forward_batch ?? this.batchSize(options.batchSize);
      const inputs = new Inputs(this.runner, this.description.inputs, samples);
      return predicted(this.runner, this.description, this.entry, this.values, inputs, batchSize, options.signal);
    });
  }

  delta(): Uint8Array {
    return deltaFile(this.description, this.entry, this.values.stored(false));
  }

  async applyDelta(bytes: Uint8Array): Promise<void> {
    const tensors = await guarded("reading the delta", () =>
      readDelta(bytes, this.description, this.entry, this.values.records(false)),
    );
    await this.replace(() => this.values.replace(tensors), this.start());
  }

  progress(): Uint8Array {
    return progressFile(this.description, this.sha256, this.entry, this.values.stored(true), this.place);
  }

  async resume(bytes: Uint8Array): Promise<void> {
    const { tensors, place } = await guarded("reading progress", () =>
      readProgress(bytes, this.description, this.sha256, this.entry),
    );
    await this.replace(() => this.values.replace(tensors), place);
  }

  async reset(): Promise<void> {
    await this.replace(() => this.values.replace([]), this.start());
  }

  selected(): Uint8Array {
    return this.values.selected();
  }

  async close(): Promise<void> {
    const { frozen, step, evaluation, prediction } = this.entry;
    await this.runner.inTurn(async () => {
      this.values.rollback();
      await this.runner.release([step, evaluation, prediction, ...(frozen === null ? [] : [frozen])]);
    });
  }

  private start(): Place {
    const { seed, batch_size: batchSize } = this.description.training;
    return { epoch: 0, step: 0, seed, batchSize };
  }

  /** Replace the values, if nothing is being trained. */
  private async replace(change: () => void, place: Place): Promise<void> {
    if (this.busy)
      throw new DeviceError("busy", `Entry ${JSON.stringify(this.entry.name)} is being trained: stop it first.`);
    await this.runner.inTurn(async () => change());
    this.place = place;
  }

  private batchSize(given: number | undefined): number {
    return whole(given ?? this.place.batchSize, 1, "batchSize");
  }

  private settings(options: StepsOptions): Settings {
    const { epochs, learning_rate } = this.description.training;
    const rate = options.rate ?? learning_rate;
    if (!(rate > 0 && rate < Infinity)) throw new DeviceError("wrong-option", `rate is ${rate}; give a number above 0.`);
    return {
      ...this.place,
      epochs: whole(options.epochs ?? epochs, 1, "epochs"),
      batchSize: this.batchSize(options.batchSize),
      seed: whole(options.seed ?? this.place.seed, Number.MIN_SAFE_INTEGER, "seed"),
      rate,
    };
  }

  private async set(data: Labelled, batchSize: number, { keepFeatures = true, signal }: StepsOptions): Promise<Set> {
    const inputs = new Inputs(this.runner, this.description.inputs, data.samples);
    if (inputs.count === 0) throw new DeviceError("too-few-samples", "There are no samples. Give at least one.");
    if (inputs.count > MOST_SAMPLES)
      throw new DeviceError("wrong-option", `${inputs.count} samples; give at most ${MOST_SAMPLES}.`);
    const labels = new CheckedLabels(this.description.labels, data.labels, inputs.count);
    const features = new Features(this.runner, this.entry, inputs, this.description.forward_batch ?? batchSize);
    if (keepFeatures) await features.keep(signal);
    return { features, labels };
  }

  private evaluateSet({ features, labels }: Set, batchSize: number, signal?: Signal): Promise<Evaluation> {
    return evaluated(this.runner, this.description, this.entry, this.values, features, labels, batchSize, signal);
  }

  /** Run the steps of the next epoch; returns the mean loss, weighted by the samples of each step. */
  private async *oneEpoch(
    set: Set,
    settings: Settings,
    signal?: Signal,
  ): AsyncGenerator<StepReport, number, undefined> {
    const { batchSize, rate, seed } = settings;
    const epoch = this.epoch + 1;
    const order = shuffle(set.features.count, seed, epoch);
    const stepsPerEpoch = Math.ceil(order.length / batchSize);
    let sum = 0;
    for (let i = 0; i < stepsPerEpoch; i++) {
      checkSignal(signal, "training");
      const step = this.step + i + 1;
      const rows = order.slice(i * batchSize, (i + 1) * batchSize);
      const loss = await this.oneStep(set, rows, rate, step);
      sum += loss * rows.length;
      if (i === stepsPerEpoch - 1) {
        await this.runner.inTurn(() => this.values.commit());
        this.place = { ...this.place, epoch, step };
      }
      yield { kind: "step", epoch, step, stepsPerEpoch, loss };
    }
    return sum / order.length;
  }

  private async oneStep({ features, labels }: Set, rows: Uint32Array, rate: number, step: number): Promise<number> {
    const { runner, entry, values } = this;
    const { names, tensors } = entry;
    const given = {
      ...(await features.tensors(rows)),
      [names.labels]: labels.tensor(runner, rows),
      [names.learning_rate]: runner.tensor("float32", Float32Array.of(rate), []),
      [names.step]: runner.tensor("int64", BigInt64Array.of(BigInt(step)), []),
    };
    const changed = tensors.map(({ output }) => output);
    const loss = await runner.run(
      entry.step,
      () => ({ ...given, ...values.feeds() }),
      [names.loss, ...changed],
      (outputs) => {
        const found = Number(outputs[names.loss].data[0]);
        values.take(outputs);
        outputs[names.loss].dispose();
        return found;
      },
      runner.keepsOnDevice ? changed : [],
    );
    for (const tensor of Object.values(given)) tensor.dispose();
    if (Number.isFinite(loss)) return loss;
    throw new DeviceError(
      "loss-not-finite",
      `The loss of step ${step} is ${loss}: the values were reset to those of epoch ${this.epoch}. ` +
        `Use a rate below ${rate}, or check the samples.`,
    );
  }
}

function whole(value: number, least: number, what: string): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new DeviceError(
    "wrong-option",
    `${what} is ${value}; give a whole number${least > 0 ? ` of at least ${least}` : ""}.`,
  );
}
