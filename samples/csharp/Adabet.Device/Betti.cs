using System;
using System.Collections.Generic;
using System.Linq;

namespace Adabet.Device
{
    /// <summary> The first Betti number of points with given distances: the number of bars with death after birth in
    /// dimension 1 of their Vietoris-Rips persistence, with coefficients mod 2. See adabet_onnx/scoring/betti.py for
    /// why it equals
    ///
    ///     free pairs - (points - 1) - rank mod 2 of the triangles with two or three equal longest edges, over free pairs.
    ///
    /// A pair is free in a subset if no point of the subset is nearer to both ends than they are to each other. For
    /// each pair, one set of bits holds these nearer points, another the points with which it forms triangles with
    /// equal longest edges. Lengths are compared as float32.
    /// </summary>
    internal sealed class Loops
    {
        private readonly int given, points, words;
        private readonly int[] place;      // index of each given point among those kept
        private readonly float[] lengths;  // points x points
        private readonly ulong[] nearer, level;
        private bool anyLevel;

        /// <param name="distance">points x points, symmetric, zero diagonal, nothing negative, no NaN</param>
        public Loops(float[] distance, int points)
        {
            given = points;
            Check(distance, points);
            int[] kept = WithoutTwins(distance, points, out place);
            this.points = kept.Length;
            words = (this.points + 63) / 64;
            lengths = new float[this.points * this.points];
            for (int i = 0; i < this.points; i++)
                for (int j = 0; j < this.points; j++)
                    lengths[i * this.points + j] = distance[kept[i] * points + kept[j]];
            nearer = new ulong[(long)Pairs(this.points) * words];
            level = new ulong[nearer.LongLength];
            for (int j = 1; j < this.points; j++)
                for (int i = 0; i < j; i++) FillSets(i, j);
        }

        /// <summary>The Betti number of all points.</summary>
        public static int Count(float[] distance, int points)
        {
            return new Loops(distance, points).Count(new[] { DocumentedRandom.Counted(points) })[0];
        }

        /// <summary>The number of each subset; a repeated point counts once.</summary>
        public int[] Count(IReadOnlyList<int[]> subsets)
        {
            var scratch = new Scratch(this);
            return subsets.Select(scratch.CountOne).ToArray();
        }

        private static int Pairs(int points)
        {
            return points > 0 ? points * (points - 1) / 2 : 0;
        }

        /// <summary>Index of the pair of two different points among all pairs.</summary>
        private static int Pair(int a, int b)
        {
            return a < b ? b * (b - 1) / 2 + a : a * (a - 1) / 2 + b;
        }

        private static void Check(float[] distance, int points)
        {
            for (int i = 0; i < points; i++)
                for (int j = 0; j < points; j++)
                {
                    float there = distance[i * points + j];
                    if (there >= 0 && there == distance[j * points + i] && (i != j || there == 0)) continue;
                    throw new DeviceException(DeviceError.NotFinite,
                        $"The distance from point {i} to point {j} is {there}, and {distance[j * points + i]} in the other direction: "
                        + "distances must be symmetric, not negative, and 0 from a point to itself.");
                }
        }

        /// <summary> Drops points at distance 0 from an earlier one that has the same distances to all others: at every
        /// length they are connected to the same points.
        /// </summary>
        private static int[] WithoutTwins(float[] distance, int points, out int[] place)
        {
            var kept = new List<int>();
            place = new int[points];
            for (int i = 0; i < points; i++)
            {
                int twin = 0;
                while (twin < kept.Count && !(distance[i * points + kept[twin]] == 0 && SameRow(distance, points, i, kept[twin]))) twin++;
                if (twin == kept.Count) kept.Add(i);
                place[i] = twin;
            }
            return kept.ToArray();
        }

        private static bool SameRow(float[] distance, int points, int a, int b)
        {
            for (int k = 0; k < points; k++)
                if (distance[a * points + k] != distance[b * points + k]) return false;
            return true;
        }

        private void FillSets(int i, int j)
        {
            int at = Pair(i, j) * words;
            float length = lengths[i * points + j];
            for (int k = 0; k < points; k++)
            {
                if (k == i || k == j) continue;
                float farther = Math.Max(lengths[i * points + k], lengths[j * points + k]);
                if (farther < length) nearer[at + k / 64] |= 1UL << (k % 64);
                else if (farther == length)
                {
                    level[at + k / 64] |= 1UL << (k % 64);
                    anyLevel = true;
                }
            }
        }

        /// <summary> Working memory. A sum is a set of pairs in descending order; the basis is in echelon form: all its
        /// sums have different first pairs.
        /// </summary>
        private sealed class Scratch
        {
            private readonly Loops of;
            private readonly ulong[] inside;
            private readonly bool[] isFree;
            private readonly int[][] basis;  // for each pair the sum that starts with it, or null
            private readonly List<int> used = new List<int>();
            private readonly List<int> freeLow = new List<int>(), freeHigh = new List<int>();
            private int rank, most;

            public Scratch(Loops of)
            {
                this.of = of;
                inside = new ulong[of.words];
                isFree = new bool[Pairs(of.points)];
                basis = new int[isFree.Length][];
            }

            public int CountOne(int[] subset)
            {
                List<int> members = Read(subset);
                FindFree(members);
                most = members.Count > 0 ? freeLow.Count - (members.Count - 1) : 0; // the free edges connect all points
                rank = 0;
                // Usually one triangle per edge reaches the maximum, and nothing needs to be reduced.
                for (int all = 0; all < 2 && of.anyLevel; all++)
                    for (int k = 0; k < freeLow.Count; k++) AddTriangles(freeLow[k], freeHigh[k], all == 1);
                foreach (int pair in used) basis[pair] = null;
                used.Clear();
                return most - rank;
            }

            private List<int> Read(int[] subset)
            {
                Array.Clear(inside, 0, inside.Length);
                foreach (int point in subset)
                {
                    if (point < 0 || point >= of.given)
                        throw new DeviceException(DeviceError.WrongOption, $"A subset has point {point}; the points are 0 to {of.given - 1}.");
                    inside[of.place[point] / 64] |= 1UL << (of.place[point] % 64);
                }
                return Enumerable.Range(0, of.points).Where(point => (inside[point / 64] >> (point % 64) & 1) != 0).ToList();
            }

            private void FindFree(List<int> members)
            {
                freeLow.Clear();
                freeHigh.Clear();
                for (int b = 1; b < members.Count; b++)
                    for (int a = 0; a < b; a++)
                    {
                        int pair = Pair(members[a], members[b]);
                        ulong blocked = 0;
                        for (int word = 0; word < of.words; word++) blocked |= of.nearer[pair * of.words + word] & inside[word];
                        isFree[pair] = blocked == 0;
                        if (blocked != 0) continue;
                        freeLow.Add(members[a]);
                        freeHigh.Add(members[b]);
                    }
            }

            /// <summary>Adds triangles of a free edge, up to the first that starts a sum of the basis, or
            /// all.</summary>
            private void AddTriangles(int low, int high, bool all)
            {
                int pair = Pair(low, high);
                for (int word = 0; word < of.words; word++)
                {
                    ulong left = of.level[pair * of.words + word] & inside[word];
                    for (int third = 64 * word; left != 0; left >>= 1, third++)
                    {
                        if (rank == most || (!all && basis[pair] != null)) return;
                        if ((left & 1) != 0) AddTriangle(low, high, third);
                    }
                }
            }

            /// <summary> Adds the triangle of a free edge and a third point, one or both of whose other edges are
            /// equally long. Each triangle is counted only at its last free edge.
            /// </summary>
            private void AddTriangle(int low, int high, int third)
            {
                int last = Pair(low, high);
                float length = of.lengths[low * of.points + high];
                var sum = new List<int> { last };
                foreach (int end in new[] { low, high })
                {
                    int other = Pair(end, third);
                    if (of.lengths[third * of.points + end] < length || !isFree[other]) continue;
                    if (other > last) return;
                    sum.Add(other);
                }
                sum.Sort((a, b) => b.CompareTo(a));
                Extend(sum.ToArray());
            }

            /// <summary>Adds a sum to the basis, and 1 to the rank, unless it depends on the basis.</summary>
            private void Extend(int[] sum)
            {
                while (sum.Length > 0)
                {
                    int first = sum[0];
                    if (basis[first] == null)
                    {
                        basis[first] = sum;
                        used.Add(first);
                        rank++;
                        return;
                    }
                    sum = Added(sum, basis[first]);
                }
            }

            private static int[] Added(int[] a, int[] b)
            {
                var sum = new List<int>(a.Length + b.Length);
                int i = 0, j = 0;
                while (i < a.Length && j < b.Length)
                {
                    if (a[i] == b[j])
                    {
                        i++;
                        j++;
                    }
                    else sum.Add(a[i] > b[j] ? a[i++] : b[j++]);
                }
                while (i < a.Length) sum.Add(a[i++]);
                while (j < b.Length) sum.Add(b[j++]);
                return sum.ToArray();
            }
        }
    }
}
