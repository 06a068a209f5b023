/** The state of the work with a package: in memory, and stored on the device. */

import { DeviceError, wrapped } from "../core/index.js";
import type { Description, Scores } from "../core/index.js";
import type { EpochView } from "./protocol.js";
import type { Store } from "./store.js";

/** Data stored in addition to pictures and progress. */
export interface State {
  readonly scores: Scores | null;
  /** The chosen entry. */
  readonly entry: string | null;
  /** Bytes for training, or null. */
  readonly limit: number | null;
  readonly classes: readonly string[];
  readonly history: readonly EpochView[];
  /** Loss of each step of complete epochs. */
  readonly curve: readonly number[];
  readonly stepsPerEpoch: number;
  readonly epochs: number;
  readonly rate: number;
}

export class Session {
  /** Complete epochs that are stored; null if nothing is stored. */
  stored: number | null = null;
  private told = false;

  private constructor(
    private readonly store: Store,
    private readonly sha256: string,
    public state: State,
    private readonly warn: (text: string) => void,
  ) {}

  static async load(
    store: Store,
    sha256: string,
    description: Description,
    classes: readonly string[],
    warn: (text: string) => void,
  ): Promise<Session> {
    const { epochs, learning_rate: rate } = description.training;
    const fresh = {
      scores: null,
      entry: null,
      limit: null,
      classes,
      history: [],
      curve: [],
      stepsPerEpoch: 0,
      epochs,
      rate,
    };
    return new Session(store, sha256, { ...fresh, ...(await store.get<State>(`session/${sha256}`)) }, warn);
  }

  /** Change the state in memory; `save` stores it. */
  set(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
  }

  async save(): Promise<void> {
    await this.attempt(() => this.store.put({ [this.key]: this.state }));
  }

  /** Store progress and its settings: both or neither. */
  async saveProgress(epoch: number, progress: Uint8Array): Promise<void> {
    const done = await this.attempt(() => this.store.put({ [this.progressKey]: progress, [this.key]: this.state }));
    if (done && this.store.works) this.stored = epoch;
  }

  readProgress(): Promise<Uint8Array | undefined> {
    return this.store.get<Uint8Array>(this.progressKey);
  }

  /** Delete the results of training. */
  async dropProgress(): Promise<void> {
    this.set({ history: [], curve: [] });
    this.stored = null;
    await this.attempt(() => this.store.drop(this.progressKey));
    await this.save();
  }

  /** Store something; returns false on failure, which is reported once and otherwise ignored. */
  async attempt(work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      this.told = false;
      return true;
    } catch (error) {
      const { code, message } = wrapped(error, "storing");
      if (error instanceof DeviceError && code !== "storage-full") throw error;
      const why =
        code === "storage-full"
          ? "There is not enough space left on this device."
          : `This could not be stored on this device: ${message}.`;
      if (!this.told)
        this.warn(`${why} Nothing is lost as long as this page is open: download the delta before you close it.`);
      this.told = true;
      return false;
    }
  }

  private get key(): string {
    return `session/${this.sha256}`;
  }

  private get progressKey(): string {
    return `progress/${this.sha256}`;
  }
}
