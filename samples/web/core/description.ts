/** A shape: positive integers; "N", the number of samples, only at the front. */
export type Shape = readonly (number | "N")[];

export interface FileRecord {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface Port {
  readonly name: string;
  readonly dtype: string;
  readonly shape: Shape;
}

/** An output of the prediction graphs; its shape ("3*N" too) is informational: results have their own. */
export interface OutputPort {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly (number | string)[];
  readonly role: "logits" | "probabilities" | null;
}

export interface LabelsPort {
  readonly dtype: string;
  readonly shape: Shape;
  readonly classes: number | null;
  readonly ignore: number | null;
}

export interface Preprocessing {
  readonly scale: number;
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly channel_axis: number | null;
  readonly data: "integer" | "float";
  readonly bgr: boolean;
}

export interface TrainingDefaults {
  readonly learning_rate: number;
  readonly batch_size: number;
  readonly epochs: number;
  readonly seed: number;
}

export interface ScoredLayer {
  readonly name: string;
  readonly output: string;
  readonly numbers: number;
  readonly size: number;
}

export interface Scoring {
  readonly file: string;
  readonly samples: number;
  readonly points: number;
  readonly subsets: number;
  readonly seed: number;
  readonly layers: readonly ScoredLayer[];
}

export interface Boundary extends Port {
  /** Of one sample. */
  readonly bytes: number;
  /** The model's input it equals, or null if the frozen graph computes it. */
  readonly input: string | null;
}

export interface TensorRecord {
  readonly name: string;
  readonly kind: "parameter" | "statistic" | "optimizer";
  readonly input: string;
  readonly output: string;
  readonly dtype: "float32";
  readonly shape: readonly number[];
  readonly offset: number;
  readonly bytes: number;
  readonly channels?: { readonly axis: number; readonly indices: readonly number[] };
}

export interface Entry {
  readonly name: string;
  readonly layers: readonly string[];
  readonly trained: number;
  readonly frozen: string | null;
  readonly step: string;
  readonly evaluation: string;
  readonly prediction: string;
  readonly state: string;
  /** The personal model; null in a package of .ort files. */
  readonly model: string | null;
  readonly selected: string;
  readonly selected_bytes: number;
  readonly boundary: readonly Boundary[];
  readonly names: {
    readonly labels: string;
    readonly learning_rate: string;
    readonly step: string;
    readonly loss: string;
    readonly logits: string;
  };
  readonly logits_shape: Shape;
  readonly class_axis: number | null;
  readonly tensors: readonly TensorRecord[];
  readonly memory: readonly (readonly [batch: number, bytes: number])[];
  readonly multiply_adds: { readonly frozen: number; readonly step: number };
}

/** The checked content of device.json. Keys are those of the format (docs/device-package.md). */
export interface Description {
  readonly format: "adabet-onnx/device";
  readonly version: 1;
  readonly model: string;
  readonly model_sha256: string;
  readonly opset: number;
  readonly ir_version: number;
  readonly oldest_onnxruntime: string;
  readonly profile: string | null;
  /** The batch size of graphs without training; null for any. */
  readonly forward_batch: 1 | null;
  readonly loss: string;
  readonly files: readonly FileRecord[];
  readonly weights: string | null;
  readonly inputs: readonly Port[];
  readonly outputs: readonly OutputPort[];
  readonly labels: LabelsPort;
  readonly class_names: readonly string[] | null;
  readonly preprocessing: Preprocessing | null;
  readonly training: TrainingDefaults;
  readonly scoring: Scoring | null;
  readonly entries: readonly Entry[];
}
