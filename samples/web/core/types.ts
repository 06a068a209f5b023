import type { InferenceSession, InferenceSessionFactory, TensorConstructor } from "onnxruntime-common";
import type { Description, Entry } from "./description.js";
import type { Signal } from "./errors.js";

/** The parts of the module onnxruntime-web, onnxruntime-node or onnxruntime-react-native that are used. */
export interface Ort {
  readonly InferenceSession: InferenceSessionFactory;
  readonly Tensor: TensorConstructor;
}

/** Access to the files of a package. */
export interface Source {
  /** Return the bytes of a file; rejects if it does not exist. */
  read(name: string): Promise<Uint8Array>;
  /**
   * Return a path that the runtime opens itself, in the folder of the weights: for runtimes that do not accept weights
   * as bytes (React Native). Files are read and checked anyway.
   */
  locate?(name: string): string;
}

/** The numbers of a tensor as a flat array. float16 is a Uint16Array, or a Float16Array if available; bool is a
 * Uint8Array. */
export type Numbers =
  | Float32Array
  | Float64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

/** Samples one after another: by name of the model's input, or just the numbers if it has one input. */
export type Samples = Numbers | { readonly [input: string]: Numbers };

/** Labels one after another: whole numbers (in any array type) if they are classes, else real numbers. */
export type Labels = ArrayLike<number> | ArrayLike<bigint>;

export interface Labelled {
  readonly samples: Samples;
  readonly labels: Labels;
}

export interface OpenOptions {
  /**
   * The runtime's execution providers, in order (default: the runtime's). "webgpu" needs the import
   * onnxruntime-web/webgpu: the WebGPU of the default import trained incorrectly without an error.
   */
  readonly executionProviders?: readonly InferenceSession.ExecutionProviderConfig[];
  /** Additional session options of the runtime, such as `intraOpNumThreads`. */
  readonly session?: InferenceSession.SessionOptions;
  /** Keep trained values in the GPU's memory between steps (only provider "webgpu" of onnxruntime-web). */
  readonly keepOnDevice?: boolean;
}

/** Progress of scoring: `done` of `total`, first for the forward passes, then for the counts. */
export interface ScoringProgress {
  readonly stage: "forward" | "count";
  readonly done: number;
  readonly total: number;
}

export interface ScoreOptions {
  /** Limit in bytes for stored outputs of layers; if it is exceeded, forward passes are done in several rounds. */
  readonly memory?: number;
  /** Called and awaited regularly, so that a page can be redrawn. */
  readonly onProgress?: (progress: ScoringProgress) => void | Promise<void>;
  readonly signal?: Signal;
}

export interface LayerScore {
  readonly name: string;
  readonly score: number;
  /** First Betti number of each subset. */
  readonly b1: readonly number[];
}

export interface Scores {
  /** Number of samples that were used. */
  readonly samples: number;
  /** In the order of the package. */
  readonly layers: readonly LayerScore[];
}

export interface ChooseOptions {
  /** Bytes available for training (default: no limit). */
  readonly memory?: number;
  /** Samples per step (default: the package's). */
  readonly batchSize?: number;
}

export interface Candidate {
  readonly entry: string;
  /** The sum of its layers' scores. */
  readonly worth: number;
  /** Bytes that its training needs. */
  readonly bytes: number;
  /** Whether it fits into the available memory. */
  readonly fits: boolean;
}

export interface Choice extends Candidate {
  /** All entries, in the order of the package. */
  readonly candidates: readonly Candidate[];
}

export interface Evaluation {
  /** Mean loss over the labels that count. */
  readonly loss: number;
  /** Share of correct predictions among the labels that count; null if the loss has no classes. */
  readonly accuracy: number | null;
  readonly samples: number;
}

export interface StepReport {
  readonly kind: "step";
  /** Counted from 1. */
  readonly epoch: number;
  /** Counted over all epochs, from 1. */
  readonly step: number;
  /** Steps of one epoch. */
  readonly stepsPerEpoch: number;
  /** Loss of this batch. */
  readonly loss: number;
}

export interface EpochReport {
  readonly kind: "epoch";
  /** Complete epochs so far. */
  readonly epoch: number;
  /** Steps so far. */
  readonly step: number;
  /** Mean loss of the epoch's steps. */
  readonly loss: number;
  /** Evaluation of `heldOut`; null without it. */
  readonly heldOut: Evaluation | null;
  /** Store this to be able to `resume` from here. */
  readonly progress: Uint8Array;
}

export interface StepsOptions {
  /** Total number of epochs, including those before `resume` (default: the package's). */
  readonly epochs?: number;
  /** Samples per step (default: the package's). */
  readonly batchSize?: number;
  /** Learning rate (default: the package's). */
  readonly rate?: number;
  /** Random seed of the order of samples (default: the package's). */
  readonly seed?: number;
  /** Evaluated after each epoch. */
  readonly heldOut?: Labelled;
  /** Compute the frozen part once for each sample and keep it (default), or again for each batch to save memory. */
  readonly keepFeatures?: boolean;
  /** Stops training before the next step; the state is then that of the last complete epoch. */
  readonly signal?: Signal;
}

export interface FitOptions extends StepsOptions {
  /** Called and awaited after each step: training pauses as long as its promise is not resolved. */
  readonly onStep?: (report: StepReport) => void | Promise<void>;
  /** Called and awaited after each epoch: store `report.progress` here. */
  readonly onEpoch?: (report: EpochReport) => void | Promise<void>;
}

export interface FitResult {
  readonly epochs: number;
  readonly steps: number;
  /** Mean loss of each epoch of this call. */
  readonly losses: readonly number[];
  /** Evaluation of `heldOut` after the last epoch; null without it, or if there was nothing left to do. */
  readonly heldOut: Evaluation | null;
}

/** An output of the model: flat numbers, and the shape with the number of samples first. */
export interface Output {
  readonly data: Numbers;
  readonly shape: readonly number[];
}

/** The training of one entry of a package, created by `device.training(name)`. */
export interface Training {
  readonly entry: Entry;
  /** Complete epochs so far. */
  readonly epoch: number;
  /** Steps so far, of complete epochs. */
  readonly step: number;

  /**
   * Train. Ends with an error if the loss is not finite or the signal is aborted; the state is then that of the last
   * complete epoch, and `fit` can be called again.
   */
  fit(data: Labelled, options?: FitOptions): Promise<FitResult>;

  /**
   * Train step by step: each step runs when the next report is requested, so that training pauses otherwise. If the
   * loop is left early, the state is that of the last complete epoch.
   */
  steps(data: Labelled, options?: StepsOptions): AsyncGenerator<StepReport | EpochReport, void, undefined>;

  /** Loss and accuracy with the current values. */
  evaluate(data: Labelled, options?: { readonly batchSize?: number; readonly signal?: Signal }): Promise<Evaluation>;

  /** The model's outputs by name, with the current values. */
  predict(
    samples: Samples,
    options?: { readonly batchSize?: number; readonly signal?: Signal },
  ): Promise<{ readonly [output: string]: Output }>;

  /** The trained parameters and statistics, as a file to be sent. */
  delta(): Uint8Array;
  /** Apply a delta of the same model and entry; epochs, steps and the optimizer are reset. */
  applyDelta(bytes: Uint8Array): Promise<void>;

  /** All values after the last complete epoch, from which an interrupted training can resume. */
  progress(): Uint8Array;
  /** Resume from stored progress of the same package and entry. */
  resume(bytes: Uint8Array): Promise<void>;
  /** Restore the package's initial values. */
  reset(): Promise<void>;

  /** The new content of the file `entry.selected`; together with `entry.model` it is the personal model. */
  selected(): Uint8Array;

  /** Release the sessions. */
  close(): Promise<void>;
}

/** An open package. */
export interface Device {
  readonly description: Description;
  /** SHA-256 of device.json, hex. */
  readonly sha256: string;

  /** Score the package's layers on samples; labels are not needed. */
  score(samples: Samples, options?: ScoreOptions): Promise<Scores>;
  /** Choose the entry with the highest scores among those that fit into memory. */
  choose(scores: Scores, options?: ChooseOptions): Choice;
  /** Create a training of an entry, which starts from its initial values. */
  training(entry: string): Promise<Training>;
  /** A file of the package, checked. */
  file(name: string): Promise<Uint8Array>;
  /** Release all sessions, including those of trainings. */
  close(): Promise<void>;
}
