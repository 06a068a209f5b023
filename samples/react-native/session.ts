import type {
  Choice,
  Device,
  EpochReport,
  ErrorCode,
  FitOptions,
  Labelled,
  Ort,
  Samples,
  StepReport,
  Training,
} from "@adabet-onnx/core";
import { DeviceError, fedFromPixels, open } from "@adabet-onnx/core";
import type { FileSystem } from "./files";
import { folder, replace } from "./files";

/** A picture of the size that the model expects. */
export interface Pixels {
  /** Four bytes per pixel, row by row. */
  readonly rgba: Uint8Array;
  readonly width: number;
  readonly height: number;
}

export interface TrainingOptions extends Pick<FitOptions, "epochs" | "batchSize" | "rate" | "seed" | "heldOut"> {
  /** Called after each step and each epoch. */
  readonly onReport?: (report: StepReport | EpochReport) => void;
}

/** The operations of a screen on a package: score on samples, train the best entry, pause, stop, save the result. */
export class Session {
  private paused: Promise<void> | null = null;
  private open: (() => void) | null = null;
  private readonly signal = { aborted: false };

  private constructor(
    readonly device: Device,
    private readonly files: FileSystem,
    private readonly own: string,
  ) {}

  /**
   * Open a package.
   *
   * @param ort the module onnxruntime-react-native
   * @param device the folder of the package on the file system, not an asset inside the app
   * @param own a folder that the app can write to
   */
  static async open(ort: Ort, files: FileSystem, device: string, own: string): Promise<Session> {
    const options = { executionProviders: ["cpu"], session: { intraOpNumThreads: 1 } };
    return new Session(await open(ort, folder(files, device), options), files, own);
  }

  /** Width and height of the pictures that the model expects. */
  get pictureSize(): { readonly width: number; readonly height: number } {
    const { inputs, preprocessing } = this.device.description;
    const shape = inputs[0].shape.map(Number);
    const channelsFirst = (preprocessing?.channel_axis ?? (shape[1] === 1 || shape[1] === 3 ? 1 : 3)) === 1;
    return { width: shape[channelsFirst ? 3 : 2], height: shape[channelsFirst ? 2 : 1] };
  }

  /** Pictures in the form of the model's input, one after another. */
  samples(pictures: readonly Pixels[]): Float32Array {
    const { inputs, preprocessing } = this.device.description;
    const each = pictures.map(({ rgba, width, height }) =>
      fedFromPixels(rgba, width, height, inputs[0].shape, preprocessing),
    );
    const all = new Float32Array(each.reduce((sum, one) => sum + one.length, 0));
    each.reduce((at, one) => (all.set(one, at), at + one.length), 0);
    return all;
  }

  /** Choose the entry with the highest score on these samples; memory is the bytes available for training. */
  async choose(samples: Samples, memory: number, onDone?: (done: number, of: number) => void): Promise<Choice> {
    this.signal.aborted = false;
    const scores = await this.device.score(samples, {
      signal: this.signal,
      onProgress: ({ stage, done, total }) => {
        if (stage === "forward") onDone?.(done, total);
        return breath();
      },
    });
    return this.device.choose(scores, { memory });
  }

  /**
   * Train an entry, store progress after each epoch, and store the delta at the end. After a stop or a kill, the next
   * call resumes after the last complete epoch.
   *
   * @returns the trained model, and the path of the delta
   */
  async train(
    entry: string,
    data: Labelled,
    { onReport, ...options }: TrainingOptions = {},
  ): Promise<{ readonly training: Training; readonly delta: string }> {
    this.signal.aborted = false;
    const training = await this.device.training(entry);
    try {
      return { training, delta: await this.trained(training, data, options, onReport) };
    } catch (error) {
      await training.close();
      throw error;
    }
  }

  private async trained(
    training: Training,
    data: Labelled,
    options: Omit<TrainingOptions, "onReport">,
    onReport: TrainingOptions["onReport"],
  ): Promise<string> {
    const progress = `${this.own}/training.progress`;
    await this.goOn(training, progress);
    await training.fit(data, {
      ...options,
      signal: this.signal,
      onStep: async (report) => {
        onReport?.(report);
        await breath();
        await this.paused;
      },
      onEpoch: async (report) => {
        await replace(this.files, progress, report.progress);
        onReport?.(report);
      },
    });
    const delta = `${this.own}/personal.safetensors`;
    await replace(this.files, delta, training.delta());
    if (await this.files.exists(progress)) await this.files.remove(progress);
    return delta;
  }

  /** Pause training before its next step. */
  pause(): void {
    this.paused ??= new Promise((resolve) => (this.open = resolve));
  }

  resume(): void {
    this.open?.();
    this.paused = this.open = null;
  }

  /** Stop training before its next step, with an error `cancelled`. */
  stop(): void {
    this.signal.aborted = true;
    this.resume();
  }

  close(): Promise<void> {
    return this.device.close();
  }

  /** Resume from stored progress of this entry, if there is any. */
  private async goOn(training: Training, path: string): Promise<void> {
    if (!(await this.files.exists(path))) return;
    try {
      await training.resume(await this.files.read(path));
    } catch (error) {
      if (!(error instanceof DeviceError) || !OF_NO_USE.has(error.code)) throw error;
      await this.files.remove(path); // it belongs to another entry or package, or is damaged: start again
    }
  }
}

const OF_NO_USE: ReadonlySet<ErrorCode> = new Set(["wrong-model", "wrong-file", "wrong-hash", "wrong-shape"]);

/** Let the screen redraw and the app handle input. */
function breath(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
