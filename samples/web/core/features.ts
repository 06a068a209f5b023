import type { Tensor } from "onnxruntime-common";
import type { Boundary, Entry } from "./description.js";
import { DeviceError, checkSignal } from "./errors.js";
import type { Signal } from "./errors.js";
import { alike, product, put } from "./numbers.js";
import { Column } from "./rows.js";
import type { Inputs, Rows } from "./rows.js";
import type { Runner } from "./runner.js";
import type { Numbers } from "./types.js";

/** What steps go on from: computed once for each sample and kept, or anew for each batch. */
export class Features implements Rows {
  readonly count: number;
  private readonly computed: readonly Boundary[];
  private kept: ReadonlyMap<string, Column> | null = null;

  constructor(
    private readonly runner: Runner,
    private readonly entry: Entry,
    private readonly inputs: Inputs,
  ) {
    this.count = inputs.count;
    this.computed = entry.boundary.filter(({ input }) => input === null);
  }

  /** Run the frozen graph on all samples, some at a time, and keep what it gives. */
  async keep(batchSize: number, signal?: Signal): Promise<void> {
    const arrays = new Map<string, Numbers>();
    for (let begin = 0; begin < this.count && this.computed.length > 0; begin += batchSize) {
      checkSignal(signal, "computing the frozen part");
      const rows = Array.from({ length: Math.min(batchSize, this.count - begin) }, (_, i) => begin + i);
      const found = await this.compute(rows);
      for (const { name, shape } of this.computed) {
        const data = found[name]!.data as Numbers;
        if (!arrays.has(name)) arrays.set(name, this.room(data, product(shape)));
        put(arrays.get(name)!, begin * product(shape), data, 0, data.length);
        found[name]!.dispose();
      }
    }
    this.kept = new Map(this.computed.flatMap((port) => (arrays.has(port.name) ? [[port.name, new Column(port, arrays.get(port.name)!)]] : [])));
  }

  async tensors(rows: ArrayLike<number>): Promise<{ [name: string]: Tensor }> {
    const computed: { [name: string]: Tensor } = this.kept === null && this.computed.length > 0 ? await this.compute(rows) : {};
    for (const [name, column] of this.kept ?? []) computed[name] = column.tensor(this.runner, rows);
    for (const { name, input } of this.entry.boundary) {
      if (input !== null) computed[name] = this.inputs.columns.get(input)!.tensor(this.runner, rows);
    }
    return computed;
  }

  private async compute(rows: ArrayLike<number>): Promise<{ [name: string]: Tensor }> {
    const file = this.entry.frozen!;
    const feeds = await this.inputs.tensors(rows);
    const names = this.computed.map(({ name }) => name);
    const found = await this.runner.run(file, () => feeds, names, (outputs) => ({ ...outputs }));
    for (const tensor of Object.values(feeds)) tensor.dispose();
    for (const { name, shape, dtype } of this.computed) {
      const { dims, type } = found[name]!;
      const expected = [rows.length, ...shape.slice(1)];
      if (String(dims) !== String(expected) || type !== dtype) {
        throw new DeviceError(
          "wrong-file",
          `${file} gives ${JSON.stringify(name)} as ${type} [${dims.join(", ")}], expected ${dtype} [${expected.join(", ")}]. Fetch the package again.`,
        );
      }
    }
    return found;
  }

  private room(data: Numbers, size: number): Numbers {
    try {
      return alike(data, this.count * size);
    } catch (error) {
      const bytes = this.count * size * data.BYTES_PER_ELEMENT;
      throw new DeviceError("out-of-memory", `No room to keep ${bytes} bytes of ${this.count} samples. Train with keepFeatures: false.`, error);
    }
  }
}
