/** Runs one training at a time, on the processor or the GPU; it can be paused. */

import { wrapped } from "../core/index.js";
import type { Entry, EpochReport, Evaluation, FitOptions, Labelled, Source, Training } from "../core/index.js";
import { breath } from "./breath.js";
import { disagreement, Engine } from "./engine.js";
import type { EpochView, News, TrainOptions } from "./protocol.js";
import type { Session } from "./session.js";

const MOST_FEATURES = 256 * 2 ** 20; // beyond, the frozen part is recomputed for each batch

export class Run {
  state: "idle" | "running" | "paused" = "idle";
  /** Losses of the current epoch. */
  pending: number[] = [];
  private gate: { readonly open: Promise<void>; readonly release: () => void } | null = null;
  private gpu: Engine | null = null;
  private signal = { aborted: false };

  /**
   * @param engine on the processor: its values are used for predictions and saved
   * @param useGpu train on the GPU if its results agree
   * @param tell reports to the page
   * @param show update the page
   */
  constructor(
    private readonly base: string,
    private readonly source: Source,
    private readonly engine: Engine,
    private readonly session: Session,
    public useGpu: boolean,
    private readonly tell: (news: News) => void,
    private readonly show: () => void,
  ) {}

  async train(entry: string, data: Labelled, heldOut: Labelled | null, { epochs, rate }: TrainOptions): Promise<void> {
    this.state = "running";
    this.signal = { aborted: false };
    this.session.set({ epochs, rate });
    this.show();
    try {
      const engine = await this.suited(entry, data, rate);
      const training = await engine.training(entry);
      if (this.session.state.history.length === 0) await this.before(training, heldOut);
      this.show();
      const keepFeatures =
        featureBytes(training.entry, data.labels.length + (heldOut?.labels.length ?? 0)) <= MOST_FEATURES;
      await training.fit(data, {
        epochs,
        rate,
        keepFeatures,
        signal: this.signal,
        ...(heldOut === null ? {} : { heldOut }),
        ...this.listeners,
      });
    } catch (error) {
      if (wrapped(error, "training").code !== "cancelled") throw error;
    } finally {
      this.release();
      this.state = "idle";
      this.pending = [];
      await this.handOver(entry);
      this.show();
    }
  }

  pause(): void {
    if (this.state !== "running") return;
    let release!: () => void;
    const open = new Promise<void>((resolve) => (release = resolve));
    this.gate = { open, release };
    this.state = "paused";
  }

  goOn(): void {
    if (this.state !== "paused") return;
    this.release();
    this.state = "running";
  }

  /** Stop before the next step; the state is then that of the last complete epoch. */
  stop(): void {
    this.signal.aborted = true;
    this.release();
  }

  /** The first row of the history: the accuracy before training. */
  async before(training: Training, heldOut: Labelled | null): Promise<void> {
    if (heldOut === null) return;
    this.session.set({ history: [rowOf(training.epoch, null, await training.evaluate(heldOut))] });
  }

  /** The training that has the current values. */
  async present(entry: string): Promise<Training> {
    const engine = this.state !== "idle" && this.useGpu ? (this.gpu ?? this.engine) : this.engine;
    return engine.training(entry);
  }

  async close(): Promise<void> {
    await this.gpu?.close();
  }

  private get listeners(): Pick<FitOptions, "onStep" | "onEpoch"> {
    return {
      onStep: async ({ epoch, step, loss, stepsPerEpoch }) => {
        this.pending.push(loss);
        if (stepsPerEpoch !== this.session.state.stepsPerEpoch) {
          this.session.set({ stepsPerEpoch });
          this.show();
        } else this.tell({ kind: "step", epoch, step, loss });
        await breath();
        await this.gate?.open;
      },
      onEpoch: async (report) => {
        await this.epochDone(report);
        await this.gate?.open;
      },
    };
  }

  private async epochDone({ epoch, loss, heldOut, progress }: EpochReport): Promise<void> {
    const { history, curve } = this.session.state;
    this.session.set({ history: [...history, rowOf(epoch, loss, heldOut)], curve: [...curve, ...this.pending] });
    this.pending = [];
    await this.session.saveProgress(epoch, progress);
    this.show();
  }

  private release(): void {
    this.gate?.release();
    this.gate = null;
  }

  /** The engine that trains: the GPU's if requested and if its results agree. */
  private async suited(entry: string, data: Labelled, rate: number): Promise<Engine> {
    if (!this.useGpu) return this.engine;
    try {
      this.tell({ kind: "doing", about: "training", text: "Comparing GPU and processor", done: 0, total: 1 });
      this.gpu ??= await Engine.open("webgpu", this.base, this.source);
      const progress = (await this.engine.training(entry)).progress();
      await (await this.gpu.training(entry)).resume(progress);
      const found = await disagreement(this.engine, this.gpu, entry, data, rate);
      if (found === null) return this.gpu;
      this.fallBack(`The GPU computes different results, so the processor trains: ${found}.`);
    } catch (error) {
      this.fallBack(`The GPU cannot be used, so the processor trains. ${wrapped(error, "preparing the GPU").message}`);
    }
    return this.engine;
  }

  private fallBack(text: string): void {
    this.useGpu = false;
    this.tell({ kind: "warning", text });
  }

  /** Copy the values trained on the GPU to the engine that predicts and saves. */
  private async handOver(entry: string): Promise<void> {
    if (!this.useGpu || this.gpu === null) return;
    const progress = (await this.gpu.training(entry)).progress();
    await (await this.engine.training(entry)).resume(progress);
  }
}

/** Bytes needed to store the results of the frozen part. */
function featureBytes({ boundary }: Entry, samples: number): number {
  return samples * boundary.reduce((sum, { input, bytes }) => sum + (input === null ? bytes : 0), 0);
}

function rowOf(epoch: number, loss: number | null, tested: Evaluation | null): EpochView {
  const samples = tested?.samples ?? 0;
  const accuracy = tested?.accuracy ?? null;
  return {
    epoch,
    loss,
    testLoss: tested?.loss ?? null,
    right: accuracy === null ? null : Math.round(accuracy * samples),
    tested: samples,
  };
}
