/** The labelled pictures, and where they are stored. */

import { DeviceError } from "../core/index.js";
import type { Description, Labelled } from "../core/index.js";
import { fed, fitted, labelOf } from "./pictures.js";
import type { Frame, Picture } from "./pictures.js";
import type { Added, Given, PicturesView, Role } from "./protocol.js";
import type { Store } from "./store.js";

const TEST_EVERY = 5;

export class Album {
  private pictures: Picture[] = [];
  /** How many pictures each stored record has. */
  private records: number[] = [];

  /** @param classes names of the model's classes */
  constructor(
    private readonly store: Store,
    private readonly key: string,
    private readonly description: Description,
    readonly frame: Frame,
    public classes: readonly string[],
  ) {}

  async load(): Promise<void> {
    const records = await this.store.all<Picture[]>(this.key);
    this.records = records.map(({ length }) => length);
    this.pictures = records.flat();
  }

  get size(): number {
    return this.pictures.length;
  }

  get view(): PicturesView {
    const count = (role: Role) =>
      this.classes.map((_, label) => this.pictures.filter((one) => one.label === label && one.role === role).length);
    return { train: count("train"), test: count("test") };
  }

  /** Newest first. */
  latest(count: number): readonly Picture[] {
    return this.pictures.slice(-count).reverse();
  }

  labelled(role: Role): Labelled | null {
    const some = this.pictures.filter((one) => one.role === role);
    if (some.length === 0) return null;
    return { samples: fed(some, this.description, this.frame), labels: some.map(({ label }) => label) };
  }

  /** Scale and label pictures; files that are not pictures, or whose class is unknown, are skipped. */
  async add(given: readonly Given[], onProgress: (done: number) => void): Promise<Added> {
    this.nameClasses(given);
    const added: Picture[] = [];
    const skipped: { name: string; why: string }[] = [];
    for (const [i, { picture, name, label, folder }] of given.entries()) {
      const found = label ?? (folder === null ? null : labelOf(folder, this.classes));
      if (found === null)
        skipped.push({
          name,
          why:
            folder === null
              ? "it has no class: choose one, or put it into a folder"
              : `folder ${folder} is not one of the classes`,
        });
      else {
        try {
          added.push({
            name,
            label: found,
            role: this.roleOfNext(found, added),
            rgba: await fitted(picture, this.frame),
          });
        } catch {
          skipped.push({ name, why: "this browser cannot read it as a picture" });
        }
      }
      onProgress(i + 1);
    }
    await this.append(added);
    return { added: added.length, skipped };
  }

  async append(added: readonly Picture[]): Promise<void> {
    if (added.length === 0) return;
    this.pictures.push(...added);
    this.records.push(added.length);
    await this.store.put({ [this.recordKey(this.records.length - 1)]: added });
  }

  async removeLast(): Promise<void> {
    const last = this.records.length - 1;
    if (last < 0) return;
    const kept = this.pictures.slice(-this.records[last], -1);
    this.pictures.pop();
    this.records[last] -= 1;
    if (this.records[last] > 0) return this.store.put({ [this.recordKey(last)]: kept });
    this.records.pop();
    return this.store.drop(this.recordKey(last));
  }

  async removeAll(): Promise<void> {
    this.pictures = [];
    this.records = [];
    await this.store.drop(this.key);
  }

  /** Every fifth picture of a class is held out for testing. */
  private roleOfNext(label: number, pending: readonly Picture[]): Role {
    const before = [...this.pictures, ...pending].filter(
      (one) => one.label === label && !one.name.startsWith("example "),
    ).length;
    return before % TEST_EVERY === TEST_EVERY - 1 ? "test" : "train";
  }

  /** If the model has no class names, those of the folders are used, in alphabetical order. */
  private nameClasses(given: readonly Given[]): void {
    if (this.description.class_names !== null || this.size > 0) return;
    const folders = [
      ...new Set(given.flatMap(({ label, folder }) => (label === null && folder !== null ? [folder] : []))),
    ].sort();
    if (folders.length === 0 || folders.every((folder) => labelOf(folder, this.classes) !== null)) return;
    if (folders.length > this.classes.length) {
      throw new DeviceError(
        "wrong-option",
        `There are ${folders.length} folders, but the model has ${this.classes.length} classes. Drop folders of its classes.`,
      );
    }
    this.classes = this.classes.map((name, i) => folders[i] ?? name);
  }

  private recordKey(number: number): string {
    return `${this.key}${String(number).padStart(8, "0")}`;
  }
}
