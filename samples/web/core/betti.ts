/**
 * First Betti numbers: the number of loops that points form at some scale, computed from their distances.
 *
 * It is the number of dimension-1 bars with death > birth in the Vietoris-Rips persistence of the points, with
 * coefficients mod 2 and no threshold. It equals ripser's count exactly: distances are rounded to float32 and compared
 * as such.
 *
 * For each pair of points, a set of bits says which points are nearer to both than they are to each other. A pair is
 * free in a subset if the subset contains none of these points, so that it is not the only longest edge of any
 * triangle. The Betti number is
 *
 *     free pairs - (points - 1) - rank mod 2 of the triangles with two or three equal longest edges, over free pairs.
 *
 * Another set of bits says with which points a pair forms such triangles; there are none if all lengths differ. See
 * adabet_onnx/scoring/betti.py for why this is correct.
 */

/** Index of the pair of two different points among all pairs. */
function pair(a: number, b: number): number {
  return a < b ? (b * (b - 1)) / 2 + a : (a * (a - 1)) / 2 + b;
}

/** The data of a group of points: lengths, and bit sets of 32 bits per word. */
interface Group {
  readonly points: number;
  readonly words: number;
  /** As float32, whose bits compare as integers in the same order. */
  readonly lengths: Int32Array;
  /** For each pair, the points nearer to both. */
  readonly nearer: Uint32Array;
  /** For each pair, the points whose larger distance to its ends equals its length. */
  readonly level: Uint32Array;
  /** Whether any pair has such a point. */
  readonly anyLevel: boolean;
}

/** The error in an entry of a matrix, if any. Entries before it have been checked. */
function fault(distance: ArrayLike<number>, lengths: Int32Array, points: number, i: number, j: number): string | null {
  const [there, back] = [i * points + j, j * points + i];
  if (!(distance[there] >= 0)) return "expected a number that is not negative";
  if (i === j && distance[there] > 0) return "expected 0 from a point to itself";
  if (j < i && lengths[there] !== lengths[back]) return `expected that of the other direction, ${distance[back]}`;
  return null;
}

/** The lengths in the form of a `Group`. Throws a RangeError if they are not distances. */
function checked(distance: ArrayLike<number>, points: number): Int32Array {
  if (!Number.isInteger(points) || points < 0 || distance.length !== points * points) {
    const expected = `${points} points have ${points * points} distances, row after row`;
    throw new RangeError(`${expected}; ${distance.length} are given`);
  }
  const rounded = new Float32Array(distance).map((length) => length + 0); // turn -0, which has other bits, into 0
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
 * The index of each point among those kept, and the points kept. Points at distance 0 from an earlier one that has the
 * same distances to all others are dropped: such duplicates add no loops, since they are connected to the same points.
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

/** Fills the sets of the pair (i, j); returns whether there is a level point. */
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
      const a = lengths[fromI + start + k] - length; // negative if smaller; a branch would be mispredicted
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

/** Sums of pairs mod 2 in echelon form: each is a list of pairs in descending order, indexed by its first pair. */
class Basis {
  private readonly sums = new Map<number, readonly number[]>();

  startsWith(pairAt: number): boolean {
    return this.sums.has(pairAt);
  }

  /** Adds a sum; returns whether it is independent of those already present. */
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
    const most = this.free.length / 2 - (this.size - 1); // the free pairs connect all points
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
   * The rank of the triangles with two or three equal longest edges. It cannot exceed `most`; usually one triangle per
   * edge reaches that, and nothing needs to be reduced.
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

  /** Adds triangles of a free pair, up to the first that starts a sum of the basis or all; returns the added rank. */
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
 * Counts the loops of a group of points and of its subsets.
 *
 *     const square = [0, 1, 2, 1, 1, 0, 1, 2, 2, 1, 0, 1, 1, 2, 1, 0];
 *     new Loops(square, 4).count([[0, 1, 2, 3], [0, 1, 2, 2]]); // [1, 0]
 */
export class Loops {
  private readonly points: number;
  private readonly place: Uint32Array;
  private readonly group: Group;

  /**
   * @param distance The distances, points x points, row after row: symmetric, with 0 on the diagonal. Distances may be
   *   infinite.
   * @param points Number of points.
   * @throws RangeError The number of distances is wrong, or they are not distances.
   */
  constructor(distance: ArrayLike<number>, points: number) {
    this.points = points;
    const lengths = checked(distance, points);
    const { place, kept } = withoutTwins(lengths, points);
    this.place = place;
    this.group = grouped(lengths, points, kept);
  }

  /**
   * The Betti number of each subset.
   *
   * @param subsets Indices of points; a repeated point counts once.
   * @throws RangeError An index is out of range.
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

/** The Betti number of all points of a matrix. See `Loops` for parameters and errors. */
export function firstBettiNumber(distance: ArrayLike<number>, points: number): number {
  return new Loops(distance, points).count([Uint32Array.from({ length: points }, (_, k) => k)])[0];
}

/** The Betti number of each subset of the points of a matrix. See `Loops` for parameters and errors. */
export function bettiNumbers(
  distance: ArrayLike<number>,
  points: number,
  subsets: readonly ArrayLike<number>[],
): number[] {
  return new Loops(distance, points).count(subsets);
}
