import type { Tensor } from "onnxruntime-common";
import type { LabelsPort, Port } from "./description.js";
import { DeviceError } from "./errors.js";
import { gathered, kindOf, product } from "./numbers.js";
import type { Runner } from "./runner.js";
import type { Labels, Numbers, Samples } from "./types.js";

/** An array with one row for each sample. */
export class Column {
  private readonly size: number;

  constructor(
    private readonly port: Port,
    private readonly data: Numbers,
  ) {
    this.size = product(port.shape);
  }

  tensor(runner: Runner, rows: ArrayLike<number>): Tensor {
    const shape = [rows.length, ...this.port.shape.slice(1)] as number[];
    return runner.tensor(this.port.dtype, gathered(this.data, rows, this.size), shape);
  }
}

/** Checked samples in the form of the model's input. */
export class Inputs {
  readonly count: number;
  readonly columns: ReadonlyMap<string, Column>;

  /** @throws DeviceError wrong-shape: an input is missing, or has another type or size */
  constructor(
    private readonly runner: Runner,
    ports: readonly Port[],
    samples: Samples,
  ) {
    const columns = new Map<string, Column>();
    const counts = ports.map((port) => {
      const data = dataOf(port, ports, samples);
      columns.set(port.name, new Column(port, data));
      return samplesIn(port, data);
    });
    this.count = counts[0];
    const other = counts.findIndex((count) => count !== this.count);
    if (other >= 0) {
      const [a, b] = [ports[0].name, ports[other].name];
      throw new DeviceError(
        "wrong-shape",
        `Input ${JSON.stringify(a)} has ${this.count} samples, ${JSON.stringify(b)} has ${counts[other]}.`,
      );
    }
    this.columns = columns;
  }

  /** Tensors of some samples, by number. */
  async tensors(rows: ArrayLike<number>): Promise<{ [name: string]: Tensor }> {
    return Object.fromEntries([...this.columns].map(([name, column]) => [name, column.tensor(this.runner, rows)]));
  }
}

function dataOf(port: Port, ports: readonly Port[], samples: Samples): Numbers {
  const name = JSON.stringify(port.name);
  if (samples === null || typeof samples !== "object")
    throw new DeviceError("wrong-shape", "samples must be an array, or arrays by input name.");
  const alone = ArrayBuffer.isView(samples);
  if (alone && ports.length > 1) {
    throw new DeviceError(
      "wrong-shape",
      `The model has ${ports.length} inputs: give an array for each by name, ` +
        `${ports.map((one) => one.name).join(", ")}.`,
    );
  }
  const data = alone ? (samples as Numbers) : (samples as { readonly [input: string]: Numbers })[port.name];
  if (data === undefined) throw new DeviceError("wrong-shape", `Input ${name} is missing among the samples.`);
  if (!kindOf(port.dtype)!.takes(data)) {
    const found = Object.prototype.toString.call(data).slice(8, -1);
    throw new DeviceError("wrong-shape", `Input ${name} needs ${port.dtype}, found ${found}: convert it first.`);
  }
  return data;
}

function samplesIn(port: Port, data: Numbers): number {
  const size = product(port.shape);
  if (data.length % size !== 0) {
    const shape = `[${port.shape.join(", ")}]`;
    throw new DeviceError(
      "wrong-shape",
      `Input ${JSON.stringify(port.name)} has ${data.length} numbers, expected a multiple of ${size} (shape ${shape}).`,
    );
  }
  return data.length / size;
}

/** Checked labels in the type of the graphs. */
export class CheckedLabels {
  readonly data: BigInt64Array | Float32Array;
  private readonly column: Column;

  /** @throws DeviceError wrong-shape: their number does not match the samples; label-out-of-range; not-finite */
  constructor(
    private readonly port: LabelsPort,
    labels: Labels,
    samples: number,
  ) {
    const expected = samples * product(port.shape);
    if (labels.length !== expected) {
      throw new DeviceError(
        "wrong-shape",
        `${labels.length} labels for ${samples} samples, expected ${expected} (shape [${port.shape.join(", ")}]).`,
      );
    }
    this.data = port.dtype === "int64" ? new BigInt64Array(expected) : new Float32Array(expected);
    for (let i = 0; i < expected; i++) this.data[i] = this.checked(labels[i], i);
    this.column = new Column({ name: "labels", ...port }, this.data);
  }

  tensor(runner: Runner, rows: ArrayLike<number>): Tensor {
    return this.column.tensor(runner, rows);
  }

  /** Whether a label counts. */
  counts(label: number | bigint): boolean {
    return this.port.ignore === null || Number(label) !== this.port.ignore;
  }

  private checked(label: number | bigint, i: number): never {
    const number = Number(label);
    const { classes, ignore, dtype } = this.port;
    if (dtype !== "int64") {
      if (!Number.isFinite(number)) throw new DeviceError("not-finite", `Label ${i} is ${number}.`);
      return number as never;
    }
    const fits =
      Number.isSafeInteger(number) && (classes === null || (number >= 0 && number < classes) || number === ignore);
    if (!fits) {
      const range =
        classes === null ? "a whole number" : `0 to ${classes - 1}${ignore === null ? "" : `, or ${ignore} for none`}`;
      throw new DeviceError("label-out-of-range", `Label ${i} is ${label}, expected ${range}.`);
    }
    return BigInt(number) as never;
  }
}
