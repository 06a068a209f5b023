import type { Tensor } from "onnxruntime-common";
import type { Boundary, Entry } from "./description.js";
import { DeviceError, checkSignal } from "./errors.js";
import type { Signal } from "./errors.js";
import { alike, product, put } from "./numbers.js";
import { Column } from "./rows.js";
import type { Inputs } from "./rows.js";
import type { Runner } from "./runner.js";
import type { Numbers } from "./types.js";

/** The inputs of training steps: computed once for each sample and stored, or again for each batch. */
export class Features {
  readonly count: number;
  private readonly computed: readonly Boundary[];
  private kept: ReadonlyMap<string, Column> | null = null;

  /** @param atOnce maximum number of samples per run of the frozen graph */
  constructor(
    private readonly runner: Runner,
    private readonly entry: Entry,
    private readonly inputs: Inputs,
    private readonly atOnce: number,
  ) {
    this.count = inputs.count;
    this.computed = entry.boundary.filter(({ input }) => input === null);
  }

  /** Compute and store the features of all samples. */
  async keep(signal?: Signal): Promise<void> {
    this.kept = await this.compute(
      Uint32Array.from({ length: this.count }, (_, i) => i),
      signal,
    );
  }

  /** Tensors of some samples, by number. */
  async tensors(rows: Uint32Array): Promise<{ [name: string]: Tensor }> {
    const columns = this.kept ?? (await this.compute(rows));
    const places = this.kept === null ? rows.map((_, i) => i) : rows;
    const found: { [name: string]: Tensor } = {};
    for (const { name, input } of this.entry.boundary) {
      found[name] =
        input === null
          ? columns.get(name)!.tensor(this.runner, places)
          : this.inputs.columns.get(input)!.tensor(this.runner, rows);
    }
    return found;
  }

  /** Run the frozen graph on samples, in batches. */
  private async compute(rows: Uint32Array, signal?: Signal): Promise<ReadonlyMap<string, Column>> {
    const arrays = new Map<string, Numbers>();
    for (let begin = 0; begin < rows.length && this.computed.length > 0; begin += this.atOnce) {
      checkSignal(signal, "computing the frozen part");
      const some = rows.subarray(begin, begin + this.atOnce);
      const feeds = await this.inputs.tensors(some);
      const names = this.computed.map(({ name }) => name);
      await this.runner.run(
        this.entry.frozen!,
        () => feeds,
        names,
        (outputs) => {
          for (const port of this.computed) {
            const size = product(port.shape);
            const data = this.dataOf(outputs[port.name], port, some.length);
            const room = arrays.get(port.name) ?? this.room(data, rows.length, size);
            arrays.set(port.name, room);
            put(room, begin * size, data, 0, data.length);
            outputs[port.name].dispose();
          }
        },
      );
      for (const tensor of Object.values(feeds)) tensor.dispose();
    }
    return new Map(this.computed.map((port) => [port.name, new Column(port, arrays.get(port.name)!)]));
  }

  private dataOf({ data, dims, type }: Tensor, { name, shape, dtype }: Boundary, count: number): Numbers {
    const expected = [count, ...shape.slice(1)];
    if (String(dims) === String(expected) && type === dtype) return data as Numbers;
    const [found, asked] = [`${type} [${dims.join(", ")}]`, `${dtype} [${expected.join(", ")}]`];
    throw new DeviceError(
      "wrong-file",
      `${this.entry.frozen} returns ${JSON.stringify(name)} as ${found}, expected ${asked}. Fetch the package again.`,
    );
  }

  private room(data: Numbers, count: number, size: number): Numbers {
    try {
      return alike(data, count * size);
    } catch (error) {
      const bytes = count * size * data.BYTES_PER_ELEMENT;
      throw new DeviceError(
        "out-of-memory",
        `Not enough memory to store ${bytes} bytes for ${count} samples. Train with keepFeatures: false.`,
        error,
      );
    }
  }
}
