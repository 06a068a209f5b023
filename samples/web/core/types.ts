import type { InferenceSession, InferenceSessionFactory, TensorConstructor } from "onnxruntime-common";
import type { Description, Entry } from "./description.js";
import type { Signal } from "./errors.js";

/** What is used of the module onnxruntime-web, onnxruntime-node or onnxruntime-react-native. */
export interface Ort {
  readonly InferenceSession: InferenceSessionFactory;
  readonly Tensor: TensorConstructor;
}

/** Where the files of a package are. */
export interface Source {
  /** The bytes of a file; rejects where there is none. */
  read(name: string): Promise<Uint8Array>;
  /**
   * A path that the runtime opens by itself, beside the file of weights: for runtimes that cannot be given weights as
   * bytes (React Native). Files are read and checked all the same.
   */
  locate?(name: string): string;
}

/** Numbers of a tensor, flat. float16 is a Uint16Array, or a Float16Array where there is one; bool a Uint8Array. */
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

/** Samples one after the other: by name of the model's input, or just the numbers where it has one input. */
export type Samples = Numbers | { readonly [input: string]: Numbers };

/** Labels one after the other: whole numbers where labels are classes (any array does), else numbers. */
export type Labels = ArrayLike<number> | ArrayLike<bigint>;

export interface Labelled {
  readonly samples: Samples;
  readonly labels: Labels;
}

export interface OpenOptions {
  /**
   * The runtime's execution providers, in order; the runtime's own where it is left out. "webgpu" needs the import
   * onnxruntime-web/webgpu: that of the default import trained wrongly without saying so.
   */
  readonly executionProviders?: readonly InferenceSession.ExecutionProviderConfig[];
  /** More of the runtime's session options, such as `intraOpNumThreads`. */
  readonly session?: InferenceSession.SessionOptions;
  /** Leave what is trained in the GPU's memory between steps (provider "webgpu" of onnxruntime-web only). */
  readonly keepOnDevice?: boolean;
}

/** What is told while scoring: `done` of `total`, first of the forward passes, then of the counts. */
export interface ScoringProgress {
  readonly stage: "forward" | "count";
  readonly done: number;
  readonly total: number;
}

export interface ScoreOptions {
  /** Bytes that may be kept of the layers' outputs; several rounds of forward passes where that takes more. */
  readonly memory?: number;
  /** Called and awaited now and then: let a page draw here. */
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
  /** How many samples it was done with. */
  readonly samples: number;
  /** In the order of the package. */
  readonly layers: readonly LayerScore[];
}

export interface ChooseOptions {
  /** Bytes there are for training; without limit where it is left out. */
  readonly memory?: number;
  /** Samples of a step; the package's own where it is left out. */
  readonly batchSize?: number;
}

export interface Candidate {
  readonly entry: string;
  /** The sum of its layers' scores. */
  readonly worth: number;
  /** Bytes that training it takes. */
  readonly bytes: number;
  /** It needs no more memory than there is. */
  readonly fits: boolean;
}

export interface Choice extends Candidate {
  /** All entries, in the order of the package. */
  readonly candidates: readonly Candidate[];
}

export interface Evaluation {
  /** Mean loss over the labels that count. */
  readonly loss: number;
  /** Share of labels that are right, of those that count; null where the loss has no classes. */
  readonly accuracy: number | null;
  readonly samples: number;
}

export interface StepReport {
  readonly kind: "step";
  /** From 1. */
  readonly epoch: number;
  /** From 1, over all epochs. */
  readonly step: number;
  /** Steps of one epoch. */
  readonly stepsPerEpoch: number;
  /** Of this batch. */
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
  /** Of `heldOut`; null where there is none. */
  readonly heldOut: Evaluation | null;
  /** What to store, so that `resume` resumes from here. */
  readonly progress: Uint8Array;
}

export interface StepsOptions {
  /** Complete epochs when it is done, those before `resume` counted; the package's own where it is left out. */
  readonly epochs?: number;
  /** Samples of a step; the package's own where it is left out. */
  readonly batchSize?: number;
  /** Learning rate; the package's own where it is left out. */
  readonly rate?: number;
  /** Of the order of samples; the package's own where it is left out. */
  readonly seed?: number;
  /** Evaluated after each epoch. */
  readonly heldOut?: Labelled;
  /** Compute the frozen part once for each sample and keep it (the default), or again for each batch, to save memory. */
  readonly keepFeatures?: boolean;
  /** Training stops before the next step; what remains is the state of the last complete epoch. */
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
  /** Mean loss of each epoch that was done now. */
  readonly losses: readonly number[];
  /** Of `heldOut` after the last epoch; null where there is none or nothing was left to do. */
  readonly heldOut: Evaluation | null;
}

/** An output of the model: flat numbers, and the shape with the number of samples first. */
export interface Output {
  readonly data: Numbers;
  readonly shape: readonly number[];
}

/** One entry of a package being trained. `device.training(name)` makes one. */
export interface Training {
  readonly entry: Entry;
  /** Complete epochs so far. */
  readonly epoch: number;
  /** Steps so far, of complete epochs. */
  readonly step: number;

  /**
   * Train. Ends with an error where the loss is not finite or the signal says so; then the state of the last whole
   * epoch remains, and `fit` can be called again.
   */
  fit(data: Labelled, options?: FitOptions): Promise<FitResult>;

  /**
   * Train step by step: each step is done when the next report is asked for, so that not asking is a pause. A loop
   * that is left early leaves the state of the last complete epoch.
   */
  steps(data: Labelled, options?: StepsOptions): AsyncGenerator<StepReport | EpochReport, void, undefined>;

  /** Loss and accuracy with the present values. */
  evaluate(data: Labelled, options?: { readonly batchSize?: number; readonly signal?: Signal }): Promise<Evaluation>;

  /** The model's outputs by name, with the present values. */
  predict(
    samples: Samples,
    options?: { readonly batchSize?: number; readonly signal?: Signal },
  ): Promise<{ readonly [output: string]: Output }>;

  /** What was trained, as a file that travels: parameters and statistics. */
  delta(): Uint8Array;
  /** Take the values of a delta of the same model and entry; epochs, steps and the optimizer start again. */
  applyDelta(bytes: Uint8Array): Promise<void>;

  /** What an interrupted training resumes from: all values after the last complete epoch. */
  progress(): Uint8Array;
  /** Resume from stored progress of the same package and entry. */
  resume(bytes: Uint8Array): Promise<void>;
  /** Go back to the package's initial values. */
  reset(): Promise<void>;

  /** The file `entry.selected` anew: beside `entry.model` it makes the personal model. */
  selected(): Uint8Array;

  /** Release the sessions. */
  close(): Promise<void>;
}

/** An open package. */
export interface Device {
  readonly description: Description;
  /** SHA-256 of device.json, hex. */
  readonly sha256: string;

  /** Score the package's layers with samples; labels are not needed. */
  score(samples: Samples, options?: ScoreOptions): Promise<Scores>;
  /** The entry that is worth most of those that fit into memory. */
  choose(scores: Scores, options?: ChooseOptions): Choice;
  /** Begin to train an entry from its initial values. */
  training(entry: string): Promise<Training>;
  /** A file of the package, checked. */
  file(name: string): Promise<Uint8Array>;
  /** Release all sessions, those of trainings too. */
  close(): Promise<void>;
}
