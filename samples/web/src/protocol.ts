/** Messages between the page and its worker: calls with answers, and notifications. */

export type Role = "train" | "test";

/** A picture from the page: a file, a drawing or a photograph. */
export interface Given {
  readonly picture: Blob | ImageBitmap;
  readonly name: string;
  /** Number of the class; null if the folder determines it. */
  readonly label: number | null;
  /** Name of the folder that contained it; null if there was none. */
  readonly folder: string | null;
}

export interface NamedFile {
  readonly name: string;
  readonly blob: Blob;
}

export interface ModelView {
  readonly name: string;
  readonly sha256: string;
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  readonly classes: readonly string[];
  readonly batchSize: number;
  readonly scored: boolean;
  readonly bytes: number;
  /** Whether there is example data for it. */
  readonly example: boolean;
  /** Whether it is the site's own package. */
  readonly fromSite: boolean;
}

export interface PicturesView {
  /** By class. */
  readonly train: readonly number[];
  readonly test: readonly number[];
}

export interface EntryView {
  readonly name: string;
  readonly layers: readonly string[];
  readonly trained: number;
  readonly bytes: number;
  readonly fits: boolean;
  /** Null before layers are scored. */
  readonly worth: number | null;
}

export interface ScoreView {
  readonly name: string;
  readonly score: number;
}

export interface EpochView {
  readonly epoch: number;
  /** Mean of the epoch's steps; null before the first. */
  readonly loss: number | null;
  readonly testLoss: number | null;
  readonly right: number | null;
  readonly tested: number;
}

export interface RunView {
  readonly state: "idle" | "running" | "paused";
  /** Complete epochs so far, and the total. */
  readonly epoch: number;
  readonly epochs: number;
  readonly rate: number;
  readonly history: readonly EpochView[];
  /** Loss of each step. */
  readonly curve: readonly number[];
  readonly stepsPerEpoch: number;
  /** Description of the processor that computes. */
  readonly where: string;
}

export interface View {
  readonly model: ModelView | null;
  readonly pictures: PicturesView;
  readonly scores: readonly ScoreView[] | null;
  readonly entries: readonly EntryView[];
  /** The chosen entry. */
  readonly entry: string | null;
  /** Bytes; null without limit. */
  readonly limit: number | null;
  /** Why no entry is chosen, or a note on the choice. */
  readonly note: string | null;
  readonly run: RunView;
  /** Whether there is a GPU, and whether to use it. */
  readonly gpu: { readonly there: boolean; readonly used: boolean };
  /** Complete epochs that are stored on this device; null if nothing is stored. */
  readonly stored: number | null;
}

export interface Added {
  readonly added: number;
  /** Files that were not added, and why. */
  readonly skipped: readonly { readonly name: string; readonly why: string }[];
}

/** A thumbnail. */
export interface Shown {
  readonly name: string;
  readonly label: number;
  readonly role: Role;
  readonly rgba: Uint8ClampedArray<ArrayBuffer>;
}

export interface Prediction {
  readonly classes: readonly { readonly name: string; readonly before: number; readonly after: number }[];
}

export interface TrainOptions {
  readonly epochs: number;
  readonly rate: number;
}

/** The calls that the worker answers. */
export interface Verbs {
  start(): Promise<void>;
  openSite(): Promise<void>;
  openFiles(files: readonly NamedFile[]): Promise<void>;
  addExample(): Promise<void>;
  addPictures(given: readonly Given[]): Promise<Added>;
  removeLast(): Promise<void>;
  removeAll(): Promise<void>;
  look(count: number): Promise<readonly Shown[]>;
  score(): Promise<void>;
  setLimit(bytes: number | null): Promise<void>;
  take(entry: string): Promise<void>;
  train(options: TrainOptions): Promise<void>;
  pause(): Promise<void>;
  goOn(): Promise<void>;
  stop(): Promise<void>;
  beginAnew(): Promise<void>;
  predict(given: Given): Promise<Prediction>;
  delta(): Promise<Uint8Array<ArrayBuffer>>;
  selected(): Promise<Uint8Array<ArrayBuffer>>;
  restore(bytes: Uint8Array): Promise<string>;
  useGpu(on: boolean): Promise<void>;
  forget(): Promise<void>;
}

export type Call = {
  [V in keyof Verbs]: { readonly id: number; readonly verb: V; readonly given: Parameters<Verbs[V]> };
}[keyof Verbs];

export type News =
  | { readonly kind: "view"; readonly view: View }
  | { readonly kind: "step"; readonly epoch: number; readonly step: number; readonly loss: number }
  | {
      readonly kind: "doing";
      readonly about: "pictures" | "layers" | "training";
      readonly text: string;
      readonly done: number;
      readonly total: number;
    }
  | { readonly kind: "warning"; readonly text: string };

export type Answer =
  | { readonly kind: "done"; readonly id: number; readonly result: unknown }
  | { readonly kind: "failed"; readonly id: number; readonly code: string; readonly message: string };
