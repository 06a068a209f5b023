import type { Tensor } from "onnxruntime-common";
import type { Entry, TensorRecord } from "./description.js";
import { DeviceError } from "./errors.js";
import type { Runner, Tensors } from "./runner.js";
import type { StoredTensor } from "./safetensors.js";

/** The values that training changes: those after the last complete epoch, and the current ones. */
export class Values {
  /** By name; arrays are replaced, never modified. */
  private kept: ReadonlyMap<string, Float32Array>;
  private live: ReadonlyMap<string, Tensor> | null = null;

  constructor(
    private readonly runner: Runner,
    private readonly entry: Entry,
    private readonly initial: Uint8Array,
  ) {
    this.kept = this.unpacked();
  }

  /** The inputs of a graph: the current values by input name. */
  feeds(): Tensors {
    this.live ??= new Map(
      this.entry.tensors.map(({ name, dtype, shape }) => [
        name,
        this.runner.tensor(dtype, this.kept.get(name)!, shape),
      ]),
    );
    return Object.fromEntries(this.entry.tensors.map(({ name, input }) => [input, this.live!.get(name)!]));
  }

  /** Make the outputs of a step the current values. */
  take(outputs: Tensors): void {
    for (const { name, output, shape } of this.entry.tensors) {
      const { dims, type } = outputs[output];
      if (type !== "float32" || String(dims) !== String(shape)) {
        const found = `${type} [${dims.join(", ")}]`;
        throw new DeviceError(
          "wrong-file",
          `${this.entry.step} returns ${JSON.stringify(name)} as ${found}, expected float32 [${shape.join(", ")}]. ` +
            "Fetch the package again.",
        );
      }
    }
    this.dispose();
    this.live = new Map(this.entry.tensors.map(({ name, output }) => [name, outputs[output]]));
  }

  /**
   * Keep the current values.
   *
   * @throws DeviceError loss-not-finite: one of them is NaN or infinite
   */
  async commit(): Promise<void> {
    if (this.live === null) return;
    const kept = new Map<string, Float32Array>();
    for (const [name, tensor] of this.live) {
      const data = ((await tensor.getData()) as Float32Array).slice();
      checkFinite(data, name, "loss-not-finite", "Use a smaller rate.");
      kept.set(name, data);
    }
    this.kept = kept;
  }

  /** Return to the values that were kept last. */
  rollback(): void {
    this.dispose();
    this.live = null;
  }

  /** Replace the values; tensors that are not given get their initial values. */
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

  /** The content of the file that the personal model reads the trained tensors from. */
  selected(): Uint8Array {
    const file = new Uint8Array(this.entry.selected_bytes);
    for (const { name, offset } of this.records(false)) {
      const { buffer, byteOffset, byteLength } = this.kept.get(name)!;
      file.set(new Uint8Array(buffer, byteOffset, byteLength), offset);
    }
    return file;
  }

  /** Initial values: zeros, and copies of the file's tensors, since some runtimes ignore an array's offset in its
   * buffer. */
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
