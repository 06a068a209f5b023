import type { InferenceSession, Tensor } from "onnxruntime-common";
import type { Description } from "./description.js";
import { DeviceError, guarded, wrapped } from "./errors.js";
import { readChecked } from "./files.js";
import type { Numbers, OpenOptions, Ort, Source } from "./types.js";

export type Tensors = { readonly [name: string]: Tensor };

/** Opens the graphs of a package and runs them, one at a time: some runtimes cannot do two things at once. */
export class Runner {
  private readonly sessions = new Map<string, Promise<InferenceSession>>();
  private last: Promise<unknown> = Promise.resolve();
  private closed = false;

  constructor(
    private readonly ort: Ort,
    private readonly source: Source,
    private readonly description: Description,
    private readonly options: OpenOptions,
  ) {}

  get keepsOnDevice(): boolean {
    return this.options.keepOnDevice === true;
  }

  /** A checked file of the package. */
  file(name: string): Promise<Uint8Array> {
    return readChecked(this.source, this.description, name);
  }

  tensor(dtype: string, data: Numbers, shape: readonly number[]): Tensor {
    return new this.ort.Tensor(dtype as "float32", data as Float32Array, shape);
  }

  /**
   * Run a graph.
   *
   * @param file of the package
   * @param feeds called when it is this graph's turn; values that are not inputs of the graph are ignored
   * @param fetches names of the outputs to return
   * @param kept outputs that stay in the device's memory
   * @param use processes the outputs before anything else runs
   */
  async run<T>(
    file: string,
    feeds: () => Tensors,
    fetches: readonly string[],
    use: (outputs: Tensors) => T | Promise<T>,
    kept: readonly string[] = [],
  ): Promise<T> {
    return this.inTurn(async () => {
      const session = await this.session(file, kept);
      const lacking = fetches.find((name) => !session.outputNames.includes(name));
      if (lacking !== undefined) throw mismatch(file, `has no output ${JSON.stringify(lacking)}`);
      const given = feeds();
      const fed: { [name: string]: Tensor } = {};
      for (const name of session.inputNames) {
        const tensor = Object.prototype.hasOwnProperty.call(given, name) ? given[name] : undefined;
        if (tensor === undefined)
          throw mismatch(file, `has an input ${JSON.stringify(name)} that device.json does not list`);
        fed[name] = tensor;
      }
      return use((await guarded(`running ${file}`, () => session.run(fed, fetches))) as Tensors);
    });
  }

  /** Run an action when nothing else runs. */
  async inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.last.then(() => {
      if (this.closed) throw new DeviceError("closed", "The package was closed; open it again.");
      return work();
    });
    this.last = turn.catch(() => undefined);
    return turn;
  }

  /** Release the sessions of graphs. */
  async release(files: readonly string[]): Promise<void> {
    for (const file of files) {
      const session = this.sessions.get(file);
      this.sessions.delete(file);
      await session?.then(
        (open) => guarded(`releasing ${file}`, () => open.release()),
        () => undefined,
      );
    }
  }

  async close(): Promise<void> {
    await this.last;
    this.closed = true;
    await this.release([...this.sessions.keys()]);
  }

  private session(file: string, kept: readonly string[]): Promise<InferenceSession> {
    const open = this.sessions.get(file) ?? this.create(file, kept);
    this.sessions.set(file, open);
    open.catch(() => this.sessions.delete(file));
    return open;
  }

  private async create(file: string, kept: readonly string[]): Promise<InferenceSession> {
    const { executionProviders, session } = this.options;
    const options: InferenceSession.SessionOptions = { ...session };
    if (executionProviders !== undefined) options.executionProviders = executionProviders;
    if (file === this.description.scoring?.file) options.executionProviders = ["cpu"]; // for equal scores everywhere
    if (kept.length > 0)
      options.preferredOutputLocation = Object.fromEntries(kept.map((name) => [name, "gpu-buffer" as const]));
    const { weights, oldest_onnxruntime: oldest } = this.description;
    const bytes = await this.file(file);
    const data = weights === null ? null : await this.file(weights);
    const path = this.source.locate?.(file);
    if (data !== null && path === undefined) options.externalData = [{ path: weights!, data }];
    try {
      const { InferenceSession: factory } = this.ort;
      return await (path === undefined ? factory.create(bytes, options) : factory.create(path, options));
    } catch (error) {
      const known = wrapped(error, `opening ${file}`);
      if (known.code !== "runtime") throw known;
      throw new DeviceError(
        "wrong-file",
        `${known.message} Fetch the package again; it needs ONNX Runtime ${oldest} or newer.`,
        error,
      );
    }
  }
}

function mismatch(file: string, why: string): DeviceError {
  return new DeviceError(
    "wrong-file",
    `${file} ${why}: it does not belong to this device.json. Fetch the package again.`,
  );
}
