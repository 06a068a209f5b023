/** The random generator of the format: the same numbers in every language. All arithmetic is modulo 2^32. */
export class Random {
  private state: number;

  constructor(seed: number, stream: number) {
    this.state = (low(seed) + Math.imul(low(stream), 0x6c078965)) | 0;
  }

  /** The next number, 0 to 2^32 - 1. */
  next(): number {
    this.state = (this.state + 0x9e3779b9) | 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return (z ^ (z >>> 16)) >>> 0;
  }

  /** A number below n; n at most 2^21, so that the product is exact in double precision. */
  below(n: number): number {
    return Math.floor((this.next() * n) / 2 ** 32);
  }

  /** m of n numbers, ascending. */
  subset(n: number, m: number): Uint32Array {
    const all = counted(n);
    for (let i = 0; i < m; i++) swap(all, i, i + this.below(n - i));
    return all.slice(0, m).sort();
  }
}

/** The order of n samples in an epoch; the epoch is the generator's stream. */
export function shuffle(n: number, seed: number, stream: number): Uint32Array {
  const random = new Random(seed, stream);
  const all = counted(n);
  for (let i = n - 1; i >= 1; i--) swap(all, i, random.below(i + 1));
  return all;
}

/** The lowest 32 bits of a whole number. */
function low(value: number): number {
  return (value % 2 ** 32) | 0;
}

function counted(n: number): Uint32Array {
  return Uint32Array.from({ length: n }, (_, i) => i);
}

function swap(numbers: Uint32Array, i: number, j: number): void {
  const kept = numbers[i];
  numbers[i] = numbers[j];
  numbers[j] = kept;
}
