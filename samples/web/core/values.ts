import type { Tensor } from "onnxruntime-common";
import type { Entry, TensorRecord } from "./description.js";
import { DeviceError } from "./errors.js";
import type { Runner, Tensors } from "./runner.js";
import type { StoredTensor } from "./safetensors.js";

/** The numbers that training changes: as they were after the last complete epoch, and as the steps since left them. */
export class Values {
  /** By name; never changed, only replaced. */
  private kept: ReadonlyMap<string, Float32Array>;
  private live: ReadonlyMap<string, Tensor> | null = null;

  constructor(
    private readonly runner: Runner,
    private readonly entry: Entry,
    private readonly initial: Uint8Array,
  ) {
    this.kept = this.unpacked();
  }

  /** What a graph is fed: the present values by the names of inputs. */
  feeds(): Tensors {
    this.live ??= new Map(
      this.entry.tensors.map(({ name, dtype, shape }) => [
        name,
        this.runner.tensor(dtype, this.kept.get(name)!, shape),
      ]),
    );
    return Object.fromEntries(this.entry.tensors.map(({ name, input }) => [input, this.live!.get(name)!]));
  }

  /** Take a step's outputs as the present values. */
  take(outputs: Tensors): void {
    for (const { name, output, shape } of this.entry.tensors) {
      const { dims, type } = outputs[output];
      if (type !== "float32" || String(dims) !== String(shape)) {
        const found = `${type} [${dims.join(", ")}]`;
        throw new DeviceError(
          "wrong-file",
          `${this.entry.step} gives ${JSON.stringify(name)} as ${found}, expected float32 [${shape.join(", ")}]. ` +
            "Fetch the package again.",
        );
      }
    }
    this.dispose();
    this.live = new Map(this.entry.tensors.map(({ name, output }) => [name, outputs[output]]));
  }

  /**
   * Keep the present values.
   *
   * @throws DeviceError loss-not-finite: one of them is NaN or infinite
   */
  async commit(): Promise<void> {
    if (this.live === null) return;
    const kept = new Map<string, Float32Array>();
    for (const [name, tensor] of this.live) {
      const data = ((await tensor.getData()) as Float32Array).slice();
      checkFinite(data, name, "loss-not-finite", "Take a smaller rate.");
      kept.set(name, data);
    }
    this.kept = kept;
  }

  /** Go back to what was kept last. */
  rollback(): void {
    this.dispose();
    this.live = null;
  }

  /** Take other values; tensors that are not among them get their initial ones. */
  replace(tensors: readonly StoredTensor[]): void {
    this.rollback();
    const given = new Map(tensors.map(({ name, data }) => [name, data]));
    this.kept = new Map([...this.unpacked()].map(([name, data]) => [name, given.get(name) ?? data]));
  }

  /** Kept values, all or without the optimizer's. */
  stored(all: boolean): StoredTensor[] {
    return this.records(all).map(({ name, shape }) => ({ name, shape, data: this.kept.get(name)! }));
  }

  records(all: boolean): readonly TensorRecord[] {
    return this.entry.tensors.filter(({ kind }) => all || kind !== "optimizer");
  }

  /** The file of trained tensors that the personal model reads. */
  selected(): Uint8Array {
    const file = new Uint8Array(this.entry.selected_bytes);
    for (const { name, offset } of this.records(false)) {
      const { buffer, byteOffset, byteLength } = this.kept.get(name)!;
      file.set(new Uint8Array(buffer, byteOffset, byteLength), offset);
    }
    return file;
  }

  /** Initial values: zeros, and copies of the file's tensors: some runtimes ignore where in a buffer an array is. */
  private unpacked(): Map<string, Float32Array> {
    return new Map(
      this.entry.tensors.map(({ name, kind, offset, bytes }) => {
        if (kind === "optimizer") return [name, new Float32Array(bytes / 4)];
        const data = new Float32Array(this.initial.slice(offset, offset + bytes).buffer);
        checkFinite(data, name, "not-finite", "Fetch the package again.");
        return [name, data];
      }),
    );
  }

  private dispose(): void {
    for (const tensor of this.live?.values() ?? []) tensor.dispose();
  }
}

/** @throws DeviceError a number is NaN or infinite */
export function checkFinite(
  data: Float32Array,
  name: string,
  code: "not-finite" | "loss-not-finite",
  advice: string,
): void {
  const at = data.findIndex((number) => !Number.isFinite(number));
  if (at >= 0) throw new DeviceError(code, `${JSON.stringify(name)} has ${data[at]} as number ${at}. ${advice}`);
}
