/** The worker's state and calls: one package with its pictures, scores and training. */

import { DeviceError, wrapped } from "../core/index.js";
import type { Choice, Labelled, Source, Training } from "../core/index.js";
import { Album } from "./album.js";
import { breath } from "./breath.js";
import { Engine } from "./engine.js";
import { fed, fitted, frameOf, readExample } from "./pictures.js";
import type { Added, Given, NamedFile, News, Prediction, Shown, TrainOptions, Verbs } from "./protocol.js";
import { Run } from "./run.js";
import { hasGpu } from "./runtime.js";
import { Session } from "./session.js";
import { fetched, fileSource, readSite, siteSource } from "./sources.js";
import type { Site } from "./sources.js";
import { Store } from "./store.js";
import { viewOf } from "./viewing.js";
import type { Work } from "./viewing.js";

export class Studio implements Verbs {
  private store!: Store;
  private site: Site | null = null;
  private opened: Work | null = null;
  private gpu = false;

  /**
   * @param base the site's folder, with a slash
   * @param tell reports to the page
   */
  constructor(
    private readonly base: string,
    private readonly tell: (news: News) => void,
  ) {}

  // Packages

  async start(): Promise<void> {
    this.store = await Store.open();
    if (!this.store.works)
      this.warn("This browser stores nothing for this page (a private window?): download the result before you leave.");
    this.gpu = await hasGpu();
    const last = await this.store.get<{ readonly files: string | null }>("last");
    const files = last?.files == null ? undefined : await this.store.get<NamedFile[]>(`files/${last.files}`);
    if (files !== undefined) {
      try {
        return await this.openFiles(files);
      } catch (error) {
        this.warn(`The package that was open before cannot be opened again. ${wrapped(error, "opening it").message}`);
      }
    }
    await this.openSite();
  }

  async openSite(): Promise<void> {
    this.site = await readSite(this.base);
    await this.open(siteSource(this.base, this.site.package), null);
  }

  async openFiles(files: readonly NamedFile[]): Promise<void> {
    await this.open(fileSource(files), files);
  }

  /** @param files of the package; null for the site's own */
  private async open(source: Source, files: readonly NamedFile[] | null): Promise<void> {
    if (this.opened !== null) this.idle("open a package");
    const engine = await Engine.open("wasm", this.base, source);
    const { description, sha256 } = engine.device;
    const frame = frameOf(description);
    if (typeof frame === "string") {
      await engine.close();
      throw new DeviceError(
        "wrong-file",
        `This page labels pictures with classes, which this package does not support: ${frame}. Open another one.`,
      );
    }
    if (files !== null) for (const { name } of description.files) await engine.device.file(name);
    const names = description.class_names ?? Array.from({ length: description.labels.classes! }, (_, i) => String(i));
    const session = await Session.load(this.store, sha256, description, names, (text) => this.warn(text));
    const album = new Album(this.store, `pictures/${sha256}/`, description, frame, session.state.classes);
    await album.load();
    const run = new Run(this.base, source, engine, session, this.opened?.run.useGpu ?? false, this.tell, () =>
      this.show(),
    );
    await this.opened?.run.close();
    await this.opened?.engine.close();
    this.opened = { engine, album, session, run, fromSite: files === null };
    await this.resumeStored();
    const last = { last: { files: files === null ? null : sha256 } };
    await session.attempt(() => this.store.put(files === null ? last : { ...last, [`files/${sha256}`]: files }));
    this.show();
  }

  /** Resume from the stored progress of the chosen entry. */
  private async resumeStored(): Promise<void> {
    const { engine, session } = this.work;
    const { entry } = session.state;
    const progress = await session.readProgress();
    if (progress === undefined || entry === null) return;
    try {
      const training = await engine.training(entry);
      await training.resume(progress);
      session.stored = training.epoch;
    } catch (error) {
      session.set({ history: [], curve: [] });
      this.warn(`The stored progress cannot be used: training starts again. ${wrapped(error, "reading it").message}`);
    }
  }

  // Pictures

  async addExample(): Promise<void> {
    const { album } = this.idle("add pictures");
    const example = this.exampleFile;
    if (example === null) throw new DeviceError("wrong-option", "There is no example data for this package.");
    const found = readExample(await fetched(`${this.base}${example}`), album.frame, album.classes.length);
    await this.work.session.attempt(() => album.removeAll());
    await this.changed(() => album.append(found));
  }

  async addPictures(given: readonly Given[]): Promise<Added> {
    const { album } = this.idle("add pictures");
    let result: Added = { added: 0, skipped: [] };
    await this.changed(async () => {
      result = await album.add(given, (done) => this.doing("pictures", "Reading pictures", done, given.length));
    });
    return result;
  }

  async removeLast(): Promise<void> {
    const { album } = this.idle("remove pictures");
    await this.changed(() => album.removeLast());
  }

  async removeAll(): Promise<void> {
    const { album } = this.idle("remove pictures");
    await this.changed(() => album.removeAll());
  }

  async look(count: number): Promise<readonly Shown[]> {
    return this.work.album.latest(count);
  }

  private async changed(change: () => Promise<void>): Promise<void> {
    const { album, session } = this.work;
    await session.attempt(change);
    session.set({ classes: album.classes });
    await session.save();
    this.show();
  }

  private get exampleFile(): string | null {
    return this.opened?.fromSite === true ? (this.site?.example ?? null) : null;
  }

  // Layers

  async score(): Promise<void> {
    const { engine, session } = this.idle("score layers");
    const scores = await engine.device.score(this.trainingData().samples, {
      onProgress: async ({ stage, done, total }) => {
        this.doing("layers", stage === "forward" ? "Running the model on the pictures" : "Counting loops", done, total);
        await breath();
      },
    });
    session.set({ scores });
    await this.follow();
  }

  async setLimit(limit: number | null): Promise<void> {
    const { session } = this.idle("change the limit");
    session.set({ limit });
    await this.follow();
  }

  async take(entry: string): Promise<void> {
    this.idle("take other layers");
    await this.switchTo(entry);
    this.show();
  }

  /** Choose the entry by the scores; without scores, a manual choice stays. */
  private async follow(): Promise<void> {
    const choice = this.choice();
    if (choice !== null) await this.switchTo(choice instanceof DeviceError ? null : choice.entry);
    await this.work.session.save();
    this.show();
  }

  private choice(): Choice | DeviceError | null {
    const { engine, session } = this.work;
    const { scores, limit } = session.state;
    if (scores === null) return null;
    try {
      return engine.device.choose(scores, limit === null ? {} : { memory: limit });
    } catch (error) {
      return wrapped(error, "choosing");
    }
  }

  private async switchTo(entry: string | null): Promise<void> {
    const { session } = this.work;
    if (entry === session.state.entry) return;
    session.set({ entry });
    if (entry !== null) await (await this.work.engine.training(entry)).reset();
    await session.dropProgress();
  }

  // Training

  async train(options: TrainOptions): Promise<void> {
    const { session, album, run } = this.idle("train");
    const { entry } = session.state;
    if (entry === null)
      throw new DeviceError(
        "wrong-option",
        "No layers are chosen. Score the layers first, or choose some in the table.",
      );
    await run.train(entry, this.trainingData(), album.labelled("test"), options);
  }

  async pause(): Promise<void> {
    this.work.run.pause();
    this.show();
  }

  async goOn(): Promise<void> {
    this.work.run.goOn();
    this.show();
  }

  async stop(): Promise<void> {
    this.work.run.stop();
  }

  async beginAnew(): Promise<void> {
    const { engine, session } = this.idle("start again");
    const { entry } = session.state;
    if (entry !== null) await (await engine.training(entry)).reset();
    await session.dropProgress();
    this.show();
  }

  async useGpu(on: boolean): Promise<void> {
    this.idle("change where it is computed").run.useGpu = on && this.gpu;
    this.show();
  }

  // Results

  async predict({ picture }: Given): Promise<Prediction> {
    const { engine, album, session } = this.work;
    const { description } = engine.device;
    let rgba: Uint8ClampedArray<ArrayBuffer>;
    try {
      rgba = await fitted(picture, album.frame);
    } catch (error) {
      throw new DeviceError(
        "wrong-file",
        "This browser cannot read this file as a picture. Use a PNG or JPEG file.",
        error,
      );
    }
    const entry = session.state.entry ?? description.entries[0].name;
    const [before, after] = await engine.predict(entry, fed([{ rgba }], description, album.frame));
    return { classes: album.classes.map((name, i) => ({ name, before: before[i], after: after[i] })) };
  }

  async delta(): Promise<Uint8Array<ArrayBuffer>> {
    return (await this.trained()).delta() as Uint8Array<ArrayBuffer>;
  }

  async selected(): Promise<Uint8Array<ArrayBuffer>> {
    return (await this.trained()).selected() as Uint8Array<ArrayBuffer>;
  }

  private async trained(): Promise<Training> {
    const { run, session } = this.work;
    const { entry } = session.state;
    if (entry === null)
      throw new DeviceError("wrong-option", "Nothing is trained yet. Choose layers and train them first.");
    return run.present(entry);
  }

  /** Load the values of a delta of any entry. */
  async restore(bytes: Uint8Array): Promise<string> {
    const { engine, session, album, run } = this.idle("restore");
    const entry = await this.entryOf(bytes);
    await this.switchTo(entry);
    const training = await engine.training(entry);
    await training.applyDelta(bytes);
    session.set({ history: [], curve: [] });
    await run.before(training, album.labelled("test"));
    await session.saveProgress(training.epoch, training.progress());
    this.show();
    return entry;
  }

  /** The entry that a delta fits; throws the error for the current entry if it fits none. */
  private async entryOf(bytes: Uint8Array): Promise<string> {
    const { engine, session } = this.work;
    const names = engine.device.description.entries.map(({ name }) => name);
    const present = session.state.entry ?? names[0];
    let first: unknown = null;
    for (const name of [present, ...names.filter((one) => one !== present)]) {
      try {
        await (await engine.device.training(name)).applyDelta(bytes);
        return name;
      } catch (error) {
        first ??= error;
        if (wrapped(error, "reading the delta").code !== "wrong-model") break;
      }
    }
    throw first;
  }

  async forget(): Promise<void> {
    this.idle("delete what is stored");
    await this.store.drop("");
    await this.openSite();
  }

  // Views for the page

  private get work(): Work {
    if (this.opened !== null) return this.opened;
    throw new DeviceError("wrong-option", "No package is open. Open one first.");
  }

  private trainingData(): Labelled {
    const data = this.work.album.labelled("train");
    if (data !== null) return data;
    throw new DeviceError("too-few-samples", "There are no pictures yet. Add some, or use the example data.");
  }

  /** The opened package, if nothing is being trained. */
  private idle(what: string): Work {
    const { work } = this;
    if (work.run.state === "idle") return work;
    throw new DeviceError("busy", `Training is running: wait until it is done before you ${what}.`);
  }

  private warn(text: string): void {
    this.tell({ kind: "warning", text });
  }

  private doing(about: "pictures" | "layers", text: string, done: number, total: number): void {
    this.tell({ kind: "doing", about, text, done, total });
  }

  private show(): void {
    if (this.opened !== null)
      this.tell({ kind: "view", view: viewOf(this.opened, this.choice(), this.exampleFile !== null, this.gpu) });
  }
}
