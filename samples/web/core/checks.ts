import { DeviceError } from "./errors.js";

/** A value of a JSON file with its path, which messages give. */
export class Checked {
  constructor(
    readonly value: unknown,
    readonly where: string,
  ) {}

  fail(expected: string): never {
    const found = JSON.stringify(this.value) ?? "nothing";
    const shown = found.length > 60 ? `${found.slice(0, 60)}...` : found;
    return this.refuse(`should be ${expected}, found ${shown}`);
  }

  /** Throw an error with the path and the problem. */
  refuse(why: string): never {
    const where = this.where === "" ? "it" : this.where;
    throw new DeviceError("wrong-file", `device.json: ${where} ${why}. Fetch the package again, or make it again.`);
  }

  get isNull(): boolean {
    return this.value === null;
  }

  is(word: string): boolean {
    return this.value === word;
  }

  key(name: string): Checked {
    const value = this.value;
    if (typeof value !== "object" || value === null || Array.isArray(value)) this.fail("an object");
    const found = Object.prototype.hasOwnProperty.call(value, name)
      ? (value as { [key: string]: unknown })[name]
      : undefined;
    return new Checked(found, this.where === "" ? name : `${this.where}.${name}`);
  }

  /** An optional key. */
  optional<T>(name: string, read: (value: Checked) => T): T | undefined {
    const found = this.key(name);
    return found.value === undefined ? undefined : read(found);
  }

  list<T>(read: (item: Checked) => T, least = 0): T[] {
    if (!Array.isArray(this.value)) this.fail("a list");
    const items = this.value as unknown[];
    if (items.length < least) this.fail(`a list of at least ${least}`);
    return items.map((item, i) => read(new Checked(item, `${this.where}[${i}]`)));
  }

  orNull<T>(read: (value: Checked) => T): T | null {
    return this.isNull ? null : read(this);
  }

  text(): string {
    return typeof this.value === "string" ? this.value : this.fail("a string");
  }

  oneOf<T extends string>(...words: readonly T[]): T {
    return (
      words.find((word) => word === this.value) ?? this.fail(words.map((word) => JSON.stringify(word)).join(" or "))
    );
  }

  /** A string that matches a pattern. */
  matching(form: RegExp, expected: string): string {
    return typeof this.value === "string" && form.test(this.value) ? this.value : this.fail(expected);
  }

  flag(): boolean {
    return typeof this.value === "boolean" ? this.value : this.fail("true or false");
  }

  number(): number {
    return typeof this.value === "number" && Number.isFinite(this.value) ? this.value : this.fail("a number");
  }

  /** A whole number of at least `least`. */
  count(least = 0): number {
    const whole = Number.isSafeInteger(this.value) && (this.value as number) >= least;
    return whole ? (this.value as number) : this.fail(`a whole number of at least ${least}`);
  }

  integer(): number {
    return Number.isSafeInteger(this.value) ? (this.value as number) : this.fail("a whole number");
  }

  sha256(): string {
    return this.matching(/^[0-9a-f]{64}$/, "a SHA-256 of 64 hexadecimal digits");
  }

  /** A file name without folders, so that it cannot point outside the package. */
  fileName(): string {
    return this.matching(/^(?!\.\.?$)[^/\\\u0000-\u001f:]+$/, "the name of a file in the package, without folders");
  }

  /** A number unchanged; anything else is read by `read`. */
  numberOr<T>(read: (value: Checked) => T): number | T {
    return typeof this.value === "number" ? this.count() : read(this);
  }

  /** Check that names are unique. */
  unique(what: string, named: readonly { readonly name: string }[]): void {
    const seen = new Set<string>();
    for (const { name } of named) {
      if (seen.has(name)) this.refuse(`has ${what} ${JSON.stringify(name)} twice`);
      seen.add(name);
    }
  }
}
