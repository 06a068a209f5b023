/**
 * First Betti numbers: how many loops points form at some scale, from the distances between them.
 *
 * The number is that of the dimension-1 bars with death > birth in the Vietoris-Rips persistence of the points, with
 * coefficients mod 2 and no threshold. It equals what the program ripser counts, to the integer: distances are rounded
 * to float32 and compared as such.
 *
 * For each pair of points, a set of bits says which points are nearer to both than they are to each other. A pair is
 * free in a subset if none of these points is in it: no triangle has it as its one longest edge. The number is
 *
 *     free pairs - (points - 1) - rank mod 2 of the triangles with two or three equal longest edges, over free pairs.
 *
 * Another set of bits says with which points a pair forms such triangles. Where all lengths differ there are none. Why
 * this is right is written in adabet_onnx/scoring/betti.py.
 */

/** Where the pair of two different points stands among all pairs. */
function pair(a: number, b: number): number {
  return a < b ? (b * (b - 1)) / 2 + a : (a * (a - 1)) / 2 + b;
}

/** What is known of a group of points: lengths, and sets of 32 bits a word. */
interface Group {
  readonly points: number;
  readonly words: number;
  /** In float32, whose bits, read as integers, are in the same order. */
  readonly lengths: Int32Array;
  /** For each pair, the points nearer to both. */
  readonly nearer: Uint32Array;
  /** For each pair, the points whose farther end is as far as the other end. */
  readonly level: Uint32Array;
  /** Whether there is such a point at all. */
  readonly anyLevel: boolean;
}

/** What is wrong with an entry of a matrix, if anything. What stands before it has been looked at. */
function fault(distance: ArrayLike<number>, lengths: Int32Array, points: number, i: number, j: number): string | null {
  const [there, back] = [i * points + j, j * points + i];
  if (!(distance[there] >= 0)) return "a number is expected that is not negative";
  if (i === j && distance[there] > 0) return "a point is expected at distance 0 from itself";
  if (j < i && lengths[there] !== lengths[back]) return `back it is ${distance[back]}; the same is expected`;
  return null;
}

/** The lengths, as a `Group` has them. Throws a RangeError where they are no distances. */
function checked(distance: ArrayLike<number>, points: number): Int32Array {
  if (!Number.isInteger(points) || points < 0 || distance.length !== points * points) {
    const expected = `${points} points have ${points * points} distances, row after row`;
    throw new RangeError(`${expected}; ${distance.length} are given`);
  }
  const rounded = new Float32Array(distance).map((length) => length + 0); // 0 for -0, which has other bits
  const lengths = new Int32Array(rounded.buffer);
  for (let i = 0; i < points; i++) {
    for (let j = 0; j < points; j++) {
      const wrong = fault(distance, lengths, points, i, j);
      if (wrong === null) continue;
      throw new RangeError(`the distance from point ${i} to point ${j} is ${distance[i * points + j]}; ${wrong}`);
    }
  }
  return lengths;
}

/**
 * For each point, its place among those kept, and these. Left out are points at distance 0 from an earlier one with the
 * same distances to all others. Such twins form no loops of their own: whatever one is joined to, so is the other.
 */
function withoutTwins(lengths: Int32Array, points: number): { place: Uint32Array; kept: number[] } {
  const place = new Uint32Array(points);
  const kept: number[] = [];
  for (let i = 0; i < points; i++) {
    const row = lengths.subarray(i * points, (i + 1) * points);
    const twin = kept.findIndex((k) => row[k] === 0 && row.every((length, at) => length === lengths[k * points + at]));
    place[i] = twin < 0 ? kept.push(i) - 1 : twin;
  }
  return { place, kept };
}

/** Fills the sets of the pair of i and j; says whether there is a level point. */
function fillSets(group: Group, i: number, j: number): boolean {
  const { points, words, lengths, nearer, level } = group;
  const [fromI, fromJ] = [i * points, j * points];
  const length = lengths[fromI + j];
  let at = pair(i, j) * words;
  let any = 0;
  for (let start = 0; start < points; start += 32, at++) {
    const count = Math.min(32, points - start);
    let below = 0;
    let upTo = 0;
    for (let k = 0; k < count; k++) {
      const a = lengths[fromI + start + k] - length; // negative where it is less; branches would be guessed wrong
      const b = lengths[fromJ + start + k] - length;
      below |= ((a & b) >>> 31) << k;
      upTo |= (((a - 1) & (b - 1)) >>> 31) << k;
    }
    if (i >> 5 === start >> 5) upTo &= ~(1 << (i & 31));
    if (j >> 5 === start >> 5) upTo &= ~(1 << (j & 31));
    nearer[at] = below;
    level[at] = upTo & ~below;
    any |= level[at];
  }
  return any !== 0;
}

function grouped(all: Int32Array, given: number, kept: readonly number[]): Group {
  const points = kept.length;
  const words = Math.ceil(points / 32);
  const lengths = new Int32Array(points * points);
  kept.forEach((from, i) => kept.forEach((to, j) => (lengths[i * points + j] = all[from * given + to])));
  const size = ((points * (points - 1)) / 2) * words;
  const [nearer, level] = [new Uint32Array(size), new Uint32Array(size)];
  const group = { points, words, lengths, nearer, level, anyLevel: false };
  for (let j = 1; j < points; j++) {
    for (let i = 0; i < j; i++) {
      if (fillSets(group, i, j)) group.anyLevel = true;
    }
  }
  return group;
}

/** Sums of pairs mod 2 in echelon form: each is a list of pairs in descending order, found by its first. */
class Basis {
  private readonly sums = new Map<number, readonly number[]>();

  startsWith(pairAt: number): boolean {
    return this.sums.has(pairAt);
  }

  /** Adds a sum; says whether it is not one of what is there. */
  add(sum: readonly number[]): boolean {
    while (sum.length > 0) {
      const there = this.sums.get(sum[0]);
      if (there === undefined) {
        this.sums.set(sum[0], sum);
        return true;
      }
      sum = Basis.sum(sum, there);
    }
    return false;
  }

  private static sum(a: readonly number[], b: readonly number[]): number[] {
    const result: number[] = [];
    let [i, j] = [0, 0];
    while (i < a.length || j < b.length) {
      if (j === b.length || a[i] > b[j]) result.push(a[i++]);
      else if (i === a.length || a[i] < b[j]) result.push(b[j++]);
      else [i, j] = [i + 1, j + 1];
    }
    return result;
  }
}

/** A subset of a group: its points as bits, and its free pairs. */
class Subset {
  private readonly group: Group;
  private readonly inside: Uint32Array;
  private readonly isFree: Uint8Array;
  /** Free pairs in order, as two points each. */
  private readonly free: number[] = [];
  private readonly size: number;

  constructor(group: Group, chosen: Iterable<number>) {
    this.group = group;
    this.inside = new Uint32Array(group.words);
    for (const point of chosen) this.inside[point >> 5] |= 1 << (point & 31);
    const members: number[] = [];
    for (let point = 0; point < group.points; point++) {
      if ((this.inside[point >> 5] >> (point & 31)) & 1) members.push(point);
    }
    this.size = members.length;
    this.isFree = new Uint8Array((group.points * (group.points - 1)) / 2);
    for (let b = 1; b < members.length; b++) {
      for (let a = 0; a < b; a++) this.look(members[a], members[b]);
    }
  }

  number(): number {
    if (this.size === 0) return 0;
    const most = this.free.length / 2 - (this.size - 1); // free pairs join all points
    return most - this.rank(most);
  }

  private look(low: number, high: number): void {
    const { nearer, words } = this.group;
    const at = pair(low, high);
    let blocked = 0;
    for (let word = 0; word < words; word++) blocked |= nearer[at * words + word] & this.inside[word];
    if (blocked === 0) {
      this.isFree[at] = 1;
      this.free.push(low, high);
    }
  }

  /**
   * The rank of the triangles with two or three equal longest edges. It cannot exceed `most`, and where one triangle of
   * each edge reaches that, as is usual, there is nothing to reduce.
   */
  private rank(most: number): number {
    const basis = new Basis();
    let rank = 0;
    for (const all of this.group.anyLevel ? [false, true] : []) {
      for (let k = 0; k < this.free.length && rank < most; k += 2) {
        rank += this.addTriangles(basis, this.free[k], this.free[k + 1], all, most - rank);
      }
    }
    return rank;
  }

  /** Adds the triangles of a free pair, the first that starts a sum of the basis or all; returns the rank they add. */
  private addTriangles(basis: Basis, low: number, high: number, all: boolean, most: number): number {
    const { level, words } = this.group;
    const at = pair(low, high);
    let added = 0;
    for (let word = 0; word < words; word++) {
      let left = level[at * words + word] & this.inside[word];
      for (; left !== 0; left &= left - 1) {
        if (added === most || (!all && basis.startsWith(at))) return added;
        const third = 32 * word + 31 - Math.clz32(left & -left);
        const sum = this.triangle(low, high, third);
        if (sum.length > 0 && basis.add(sum)) added++;
      }
    }
    return added;
  }

  /** The free pairs of a triangle that are its longest; none if the given pair is not the last of these. */
  private triangle(low: number, high: number, third: number): number[] {
    const { lengths, points } = this.group;
    const last = pair(low, high);
    const sum = [last];
    for (const end of [low, high]) {
      const other = pair(end, third);
      if (lengths[third * points + end] < lengths[low * points + high] || this.isFree[other] === 0) continue;
      if (other > last) return [];
      sum.push(other);
    }
    return sum.sort((a, b) => b - a);
  }
}

/**
 * The loops of a group of points, which can be counted for many of its subsets.
 *
 *     const square = [0, 1, 2, 1, 1, 0, 1, 2, 2, 1, 0, 1, 1, 2, 1, 0];
 *     new Loops(square, 4).count([[0, 1, 2, 3], [0, 1, 2, 2]]); // [1, 0]
 */
export class Loops {
  private readonly points: number;
  private readonly place: Uint32Array;
  private readonly group: Group;

  /**
   * @param distance The distances, points x points, row after row: symmetric, with 0 on the diagonal. One may be
   *     infinite: it is longer than all others.
   * @param points How many points there are.
   * @throws RangeError They are not as many, or not distances.
   */
  constructor(distance: ArrayLike<number>, points: number) {
    this.points = points;
    const lengths = checked(distance, points);
    const { place, kept } = withoutTwins(lengths, points);
    this.place = place;
    this.group = grouped(lengths, points, kept);
  }

  /**
   * The number of each subset.
   *
   * @param subsets Indices of points; one that is given twice is one point.
   * @throws RangeError An index is none of a point.
   */
  count(subsets: readonly ArrayLike<number>[]): number[] {
    return subsets.map((subset) => new Subset(this.group, Array.from(subset, (point) => this.placeOf(point))).number());
  }

  private placeOf(point: number): number {
    if (!Number.isInteger(point) || point < 0 || point >= this.points) {
      throw new RangeError(`a subset has point ${point}; the points are 0 to ${this.points - 1}`);
    }
    return this.place[point];
  }
}

/** The number of all points of a matrix. See `Loops` for what it takes and throws. */
export function firstBettiNumber(distance: ArrayLike<number>, points: number): number {
  return new Loops(distance, points).count([Uint32Array.from({ length: points }, (_, k) => k)])[0];
}

/** The number of each subset of the points of a matrix. See `Loops` for what it takes and throws. */
export function bettiNumbers(
  distance: ArrayLike<number>,
  points: number,
  subsets: readonly ArrayLike<number>[],
): number[] {
  return new Loops(distance, points).count(subsets);
}
