/** All that the worker knows and does: one package, its pictures, its scores, its training. */

import { DeviceError, wrapped } from "../core/index.js";
import type { Choice, EpochReport, FitOptions, Labelled, Scores, Source, Training } from "../core/index.js";
import { neededBytes } from "../core/choosing.js";
import { Album } from "./album.js";
import { disagreement, Engine } from "./engine.js";
import { fed, fitted, frameOf, readExample } from "./pictures.js";
import type { Added, EntryView, EpochView, Given, ModelView, NamedFile, News, Prediction, Shown, TrainOptions, Verbs, View } from "./protocol.js";
import { hasGpu } from "./runtime.js";
import { fetched, fileSource, readSite, siteSource } from "./sources.js";
import type { Site } from "./sources.js";
import { Store } from "./store.js";

/** What of a package's work is stored, beside pictures and progress. */
interface Session {
  readonly scores: Scores | null;
  readonly entry: string | null;
  readonly limit: number | null;
  readonly classes: readonly string[];
  readonly history: readonly EpochView[];
  readonly curve: readonly number[];
  readonly stepsPerEpoch: number;
  readonly epochs: number;
}

const EMPTY = { scores: null, entry: null, limit: null, history: [], curve: [], stepsPerEpoch: 0, epochs: 0 } as const;

export class Studio implements Verbs {
  private store!: Store;
  private site: Site | null = null;
  private engine: Engine | null = null;
  private gpuEngine: Engine | null = null;
  private source: Source | null = null;
  private fromSite = false;
  private album: Album | null = null;
  private session: Session = { ...EMPTY, classes: [] };
  private stored: number | null = null;
  private storageTold = false;
  private state: "idle" | "running" | "paused" = "idle";
  private pending: number[] = []; // losses of the epoch that goes on
  private gate: { readonly open: Promise<void>; readonly release: () => void } | null = null;
  private gpuThere = false;
  private gpuWanted = false;

  /**
   * @param base the site's folder, with a slash
   * @param tell what the page is told
   */
  constructor(
    private readonly base: string,
    private readonly tell: (news: News) => void,
  ) {}

  // Packages

  async start(): Promise<void> {
    this.store = await Store.open();
    if (!this.store.works) this.warn("This browser stores nothing here (a private window?): download the result before you leave.");
    this.gpuThere = await hasGpu();
    const last = await this.store.get<{ readonly files: string | null }>("last").catch(() => undefined);
    const files = last?.files == null ? undefined : await this.store.get<NamedFile[]>(`files/${last.files}`);
    if (files !== undefined) {
      try {
        return await this.use(fileSource(files), files);
      } catch (error) {
        this.warn(`The package that was open before cannot be opened again. ${wrapped(error, "opening it").message}`);
      }
    }
    await this.openSite();
  }

  async openSite(): Promise<void> {
    this.site = await readSite(this.base);
    await this.use(siteSource(this.base, this.site.package), null);
  }

  async openFiles(files: readonly NamedFile[]): Promise<void> {
    await this.use(fileSource(files), files);
  }

  private async use(source: Source, files: readonly NamedFile[] | null): Promise<void> {
    this.onlyIdle("open a package");
    const engine = await Engine.open("wasm", this.base, source);
    const { description, sha256 } = engine.device;
    const frame = frameOf(description);
    if (typeof frame === "string") {
      await engine.close();
      throw new DeviceError("wrong-file", `This page labels pictures with classes, and this package is for something else: ${frame}. Open another one.`);
    }
    if (files !== null) for (const { name } of description.files) await engine.device.file(name);
    await this.engine?.close();
    await this.gpuEngine?.close();
    [this.engine, this.gpuEngine, this.source, this.fromSite] = [engine, null, source, files === null];
    const classes = description.class_names ?? Array.from({ length: description.labels.classes! }, (_, i) => String(i));
    this.session = { ...EMPTY, epochs: description.training.epochs, classes, ...(await this.store.get<Session>(`session/${sha256}`)) };
    this.album = new Album(this.store, `pictures/${sha256}/`, description, frame, this.session.classes);
    await this.album.load();
    this.stored = null;
    await this.resumeStored();
    await this.keep({ last: { files: files === null ? null : sha256 }, ...(files === null ? {} : { [`files/${sha256}`]: files }) });
    this.show();
  }

  /** Go on from what is stored of the chosen entry. */
  private async resumeStored(): Promise<void> {
    const progress = await this.store.get<Uint8Array>(`progress/${this.open.device.sha256}`);
    if (progress === undefined || this.session.entry === null) return;
    try {
      const training = await this.open.training(this.session.entry);
      await training.resume(progress);
      this.stored = training.epoch;
    } catch (error) {
      this.session = { ...this.session, history: [], curve: [] };
      this.warn(`What was stored cannot be used: training begins anew. ${wrapped(error, "reading it").message}`);
    }
  }

  private get open(): Engine {
    if (this.engine !== null) return this.engine;
    throw new DeviceError("wrong-option", "No package is open. Open one first.");
  }

  private get pictures(): Album {
    if (this.album !== null) return this.album;
    throw new DeviceError("wrong-option", "No package is open. Open one first.");
  }

  // Pictures

  async addExample(): Promise<void> {
    this.onlyIdle("add pictures");
    const example = this.exampleFile;
    if (example === null) throw new DeviceError("wrong-option", "There is no example data for this package.");
    const { frame, classes } = this.pictures;
    const found = readExample(await fetched(`${this.base}${example}`), frame, classes.length);
    await this.pictures.removeAll().catch((error: unknown) => this.storageFailed(error));
    await this.changed(() => this.pictures.append(found));
  }

  async addPictures(given: readonly Given[]): Promise<Added> {
    this.onlyIdle("add pictures");
    let result: Added = { added: 0, skipped: [] };
    const doing = (done: number) => this.doing("Reading pictures", done, given.length);
    await this.changed(async () => {
      result = await this.pictures.add(given, doing);
    });
    return result;
  }

  async removeLast(): Promise<void> {
    this.onlyIdle("remove pictures");
    await this.changed(() => this.pictures.removeLast());
  }

  async removeAll(): Promise<void> {
    this.onlyIdle("remove pictures");
    await this.changed(() => this.pictures.removeAll());
  }

  async look(count: number): Promise<readonly Shown[]> {
    return this.album?.latest(count) ?? [];
  }

  /** Change the pictures; a full storage is told and hinders nothing. */
  private async changed(change: () => Promise<void>): Promise<void> {
    try {
      await change();
    } catch (error) {
      this.storageFailed(error);
    }
    this.session = { ...this.session, classes: this.pictures.classes };
    await this.keepSession();
    this.show();
  }

  private get exampleFile(): string | null {
    return this.fromSite ? (this.site?.example ?? null) : null;
  }

  // Layers

  async score(): Promise<void> {
    this.onlyIdle("score layers");
    const data = this.trainingData();
    const scores = await this.open.device.score(data.samples, {
      onProgress: async ({ stage, done, total }) => {
        this.doing(stage === "forward" ? "Looking at pictures" : "Counting loops", done, total);
        await breath();
      },
    });
    this.session = { ...this.session, scores };
    await this.choose();
  }

  async setLimit(limit: number | null): Promise<void> {
    this.onlyIdle("change the limit");
    this.session = { ...this.session, limit };
    await this.choose();
  }

  async take(entry: string): Promise<void> {
    this.onlyIdle("take other layers");
    await this.switchTo(entry);
    this.show();
  }

  /** Take what the scores say. */
  private async choose(): Promise<void> {
    const choice = this.choice();
    if (choice !== null && !(choice instanceof DeviceError)) await this.switchTo(choice.entry);
    else if (choice instanceof DeviceError) await this.switchTo(null);
    this.show();
  }

  private async switchTo(entry: string | null): Promise<void> {
    if (entry === this.session.entry) return this.keepSession();
    this.session = { ...this.session, entry, history: [], curve: [] };
    this.stored = null;
    await this.store.drop(`progress/${this.open.device.sha256}`).catch((error: unknown) => this.storageFailed(error));
    await this.keepSession();
  }

  private choice(): Choice | DeviceError | null {
    const { scores, limit } = this.session;
    if (this.engine === null || scores === null) return null;
    try {
      return this.engine.device.choose(scores, limit === null ? {} : { memory: limit });
    } catch (error) {
      return wrapped(error, "choosing");
    }
  }

  // Training

  async train({ epochs, rate }: TrainOptions): Promise<void> {
    this.onlyIdle("train");
    const entry = this.session.entry;
    if (entry === null) throw new DeviceError("wrong-option", "No layers are chosen. Score the layers first, or choose some in the table.");
    const data = this.trainingData();
    const heldOut = this.pictures.labelled("test");
    this.state = "running";
    this.session = { ...this.session, epochs };
    this.show();
    try {
      const engine = await this.suited(entry, data, rate);
      const training = await engine.training(entry);
      if (this.session.history.length === 0) await this.before(training, heldOut);
      this.show();
      await training.fit(data, { epochs, rate, ...(heldOut === null ? {} : { heldOut }), ...this.listeners() });
    } finally {
      this.state = "idle";
      this.pending = [];
      await this.handOver(entry);
      this.show();
    }
  }

  private listeners(): Pick<FitOptions, "onStep" | "onEpoch"> {
    return {
      onStep: async ({ epoch, step, loss, stepsPerEpoch }) => {
        this.pending.push(loss);
        this.session = { ...this.session, stepsPerEpoch };
        this.tell({ kind: "step", epoch, step, loss });
        await breath();
        await this.gate?.open;
      },
      onEpoch: async (report) => {
        await this.epochDone(report);
        await this.gate?.open;
      },
    };
  }

  private async before(training: Training, heldOut: Labelled | null): Promise<void> {
    if (heldOut === null) return;
    const { loss, accuracy, samples } = await training.evaluate(heldOut);
    const row = { epoch: training.epoch, loss: null, testLoss: loss, right: rightOf(accuracy, samples), tested: samples };
    this.session = { ...this.session, history: [row] };
  }

  private async epochDone({ epoch, loss, heldOut, progress }: EpochReport): Promise<void> {
    const { history, curve } = this.session;
    const tested = heldOut?.samples ?? 0;
    const row = { epoch, loss, testLoss: heldOut?.loss ?? null, right: heldOut === null ? null : rightOf(heldOut.accuracy, tested), tested };
    this.session = { ...this.session, history: [...history, row], curve: [...curve, ...this.pending] };
    this.pending = [];
    if (await this.keep(this.withProgress(progress))) this.stored = epoch;
    this.show();
  }

  /** The engine that trains: the GPU's where it is asked for and computes the same. */
  private async suited(entry: string, data: Labelled, rate: number): Promise<Engine> {
    if (!this.gpuWanted) return this.open;
    try {
      this.doing("Comparing GPU and processor", 0, 1);
      this.gpuEngine ??= await Engine.open("webgpu", this.base, this.source!);
      const progress = (await this.open.training(entry)).progress();
      await (await this.gpuEngine.training(entry)).resume(progress);
      const found = await disagreement(this.open, this.gpuEngine, entry, data, rate);
      if (found === null) return this.gpuEngine;
      this.warn(`The GPU computes something else, so the processor trains: ${found}.`);
    } catch (error) {
      this.warn(`The GPU cannot be used, so the processor trains. ${wrapped(error, "preparing the GPU").message}`);
    }
    this.gpuWanted = false;
    return this.open;
  }

  /** What the GPU trained goes to the engine that predicts and saves. */
  private async handOver(entry: string): Promise<void> {
    if (!this.gpuWanted || this.gpuEngine === null) return;
    const progress = (await this.gpuEngine.training(entry)).progress();
    await (await this.open.training(entry)).resume(progress);
  }

  async pause(): Promise<void> {
    if (this.state !== "running") return;
    let release!: () => void;
    this.gate = { open: new Promise((resolve) => (release = resolve)), release: () => release() };
    this.state = "paused";
    this.show();
  }

  async goOn(): Promise<void> {
    if (this.state !== "paused") return;
    this.gate?.release();
    this.gate = null;
    this.state = "running";
    this.show();
  }

  async beginAnew(): Promise<void> {
    this.onlyIdle("begin anew");
    const { entry } = this.session;
    if (entry !== null) await (await this.open.training(entry)).reset();
    this.session = { ...this.session, history: [], curve: [] };
    this.stored = null;
    await this.store.drop(`progress/${this.open.device.sha256}`).catch((error: unknown) => this.storageFailed(error));
    await this.keepSession();
    this.show();
  }

  async useGpu(on: boolean): Promise<void> {
    this.onlyIdle("change where it is computed");
    this.gpuWanted = on && this.gpuThere;
    this.show();
  }

  // Results

  async predict({ picture }: Given): Promise<Prediction> {
    const { frame, classes } = this.pictures;
    const { description } = this.open.device;
    let rgba: Uint8ClampedArray<ArrayBuffer>;
    try {
      rgba = await fitted(picture, frame);
    } catch (error) {
      throw new DeviceError("wrong-file", "This is no picture that this browser can read. Take a PNG or JPEG file.", error);
    }
    const entry = this.session.entry ?? description.entries[0].name;
    const [before, after] = await this.open.predict(entry, fed([{ rgba }], description, frame));
    const training = await this.open.training(entry);
    return { classes: classes.map((name, i) => ({ name, before: before[i], after: after[i] })), epoch: training.epoch };
  }

  async delta(): Promise<Uint8Array<ArrayBuffer>> {
    return (await this.result()).delta() as Uint8Array<ArrayBuffer>;
  }

  async selected(): Promise<Uint8Array<ArrayBuffer>> {
    return (await this.result()).selected() as Uint8Array<ArrayBuffer>;
  }

  private async result(): Promise<Training> {
    const { entry } = this.session;
    if (entry === null) throw new DeviceError("wrong-option", "Nothing is trained yet. Choose layers and train them first.");
    const engine = this.state !== "idle" && this.gpuWanted && this.gpuEngine !== null ? this.gpuEngine : this.open;
    return engine.training(entry);
  }

  /** Take the values of a delta, of whichever entry it is. */
  async restore(bytes: Uint8Array): Promise<string> {
    this.onlyIdle("restore");
    const entry = await this.entryOf(bytes);
    await this.switchTo(entry);
    const training = await this.open.training(entry);
    await training.applyDelta(bytes);
    this.session = { ...this.session, history: [], curve: [] };
    const heldOut = this.pictures.labelled("test");
    await this.before(training, heldOut);
    await this.keep(this.withProgress(training.progress()));
    this.show();
    return entry;
  }

  /** The entry that a delta fits; the present one's error where it fits none. */
  private async entryOf(bytes: Uint8Array): Promise<string> {
    const { entries } = this.open.device.description;
    const present = this.session.entry ?? entries[0].name;
    let first: unknown = null;
    for (const name of [present, ...entries.map((entry) => entry.name).filter((one) => one !== present)]) {
      const trial = await this.open.device.training(name);
      try {
        await trial.applyDelta(bytes);
        return name;
      } catch (error) {
        first ??= error;
        if (wrapped(error, "reading the delta").code !== "wrong-model") break;
      }
    }
    throw first;
  }

  async forget(): Promise<void> {
    this.onlyIdle("delete what is stored");
    await this.store.drop("");
    await this.openSite();
  }

  // Storing

  private withProgress(progress: Uint8Array): { readonly [key: string]: unknown } {
    const { sha256 } = this.open.device;
    return { [`progress/${sha256}`]: progress, [`session/${sha256}`]: this.session };
  }

  private async keepSession(): Promise<void> {
    await this.keep({ [`session/${this.open.device.sha256}`]: this.session });
  }

  /** Store values; false where that fails, which is told once and hinders nothing. */
  private async keep(values: { readonly [key: string]: unknown }): Promise<boolean> {
    try {
      await this.store.put(values);
      this.storageTold = false;
      return this.store.works;
    } catch (error) {
      this.storageFailed(error);
      return false;
    }
  }

  private storageFailed(error: unknown): void {
    const { code, message } = wrapped(error, "storing");
    if (error instanceof DeviceError && code !== "storage-full") throw error;
    if (this.storageTold) return;
    this.storageTold = true;
    const why = code === "storage-full" ? "There is no room left to store on this device." : `This could not be stored on this device: ${message}.`;
    this.warn(`${why} Nothing is lost as long as this page is open: download the delta before you close it.`);
  }

  // What the page is told

  private trainingData(): Labelled {
    const data = this.pictures.labelled("train");
    if (data !== null) return data;
    throw new DeviceError("too-few-samples", "There are no pictures yet. Add some, or take the example data.");
  }

  private onlyIdle(what: string): void {
    if (this.state !== "idle") throw new DeviceError("busy", `Training goes on: wait until it is done before you ${what}.`);
  }

  private warn(text: string): void {
    this.tell({ kind: "warning", text });
  }

  private doing(text: string, done: number, total: number): void {
    this.tell({ kind: "doing", text, done, total });
  }

  private show(): void {
    this.tell({ kind: "view", view: this.view() });
  }

  private view(): View {
    const { session, album, engine } = this;
    const choice = this.choice();
    const none = choice instanceof DeviceError ? choice.message : null;
    const description = engine?.device.description;
    return {
      model: engine === null || album === null ? null : modelView(engine, album, this.exampleFile !== null, this.fromSite),
      pictures: album?.view ?? { train: [], test: [] },
      scores: session.scores?.layers.map(({ name, score }) => ({ name, score })) ?? null,
      entries: description?.entries.map((entry): EntryView => {
        const found = choice instanceof DeviceError ? null : choice?.candidates.find((one) => one.entry === entry.name);
        const bytes = neededBytes(entry, description.training.batch_size);
        const fits = session.limit === null || bytes <= session.limit;
        return { name: entry.name, layers: entry.layers, trained: entry.trained, bytes, fits, worth: found?.worth ?? null };
      }) ?? [],
      entry: session.entry,
      limit: session.limit,
      note: none,
      run: {
        state: this.state,
        epoch: session.history[session.history.length - 1]?.epoch ?? 0,
        epochs: session.epochs,
        history: session.history,
        curve: [...session.curve, ...this.pending],
        stepsPerEpoch: session.stepsPerEpoch,
        where: this.gpuWanted ? "on the GPU (WebGPU)" : "on the processor (WebAssembly)",
      },
      gpu: this.gpuThere,
      stored: this.stored,
    };
  }
}

function modelView({ device: { description, sha256 } }: Engine, { frame, classes }: Album, example: boolean, fromSite: boolean): ModelView {
  const { learning_rate: rate, batch_size: batchSize, epochs } = description.training;
  const bytes = description.files.reduce((sum, file) => sum + file.bytes, 0);
  return { name: description.model, sha256, ...frame, classes, epochs, rate, batchSize, scored: description.scoring !== null, bytes, example, fromSite };
}

function rightOf(accuracy: number | null, samples: number): number | null {
  return accuracy === null ? null : Math.round(accuracy * samples);
}

const { port1, port2 } = new MessageChannel();
let wake: (() => void) | null = null;
port2.onmessage = () => wake?.();

/** Let messages in: a promise alone would not. */
function breath(): Promise<void> {
  return new Promise((resolve) => {
    wake = resolve;
    port1.postMessage(null);
  });
}
