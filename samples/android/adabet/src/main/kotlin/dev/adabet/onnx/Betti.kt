package dev.adabet.onnx

/**
 * Counts the loops of a group of points: first Betti numbers, of all points or of subsets.
 *
 * It is the number of dimension-1 bars with death > birth in the Vietoris-Rips persistence of the points, with
 * coefficients mod 2 and no threshold. Distances are rounded to float32 and compared as such.
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
internal class Loops(distance: DoubleArray, private val given: Int) {
    /** Index of each given point among those kept. */
    private val place = IntArray(given)
    private val points: Int
    private val words: Int

    /** Distances of the kept points, row by row. */
    private val lengths: FloatArray

    /** For each pair, the points nearer to both. */
    private val nearer: LongArray

    /** For each pair, the points whose larger distance to its ends equals its length. */
    private val level: LongArray
    private var anyLevel = false

    init {
        val all = checked(distance, given)
        val kept = withoutTwins(all)
        points = kept.size
        words = (points + 63) / 64
        lengths = FloatArray(points * points) { all[kept[it / points] * given + kept[it % points]] }
        val size = Math.multiplyExact(points * (points - 1) / 2, words)
        nearer = LongArray(size)
        level = LongArray(size)
        for (j in 1 until points) for (i in 0 until j) fillSets(i, j)
    }

    /** The Betti number of a subset; a repeated point counts once. */
    fun count(subset: IntArray): Int = Subset(subset).number()

    /**
     * Drops points at distance 0 from an earlier one that has the same distances to all others. Such duplicates add no
     * loops: at every length they are connected to the same points.
     */
    private fun withoutTwins(all: FloatArray): List<Int> {
        val kept = ArrayList<Int>()
        for (i in 0 until given) {
            val twin = kept.indexOfFirst { k ->
                all[i * given + k] == 0f && (0 until given).all { all[i * given + it] == all[k * given + it] }
            }
            place[i] = if (twin < 0) kept.size else twin
            if (twin < 0) kept.add(i)
        }
        return kept
    }

    private fun fillSets(i: Int, j: Int) {
        val length = lengths[i * points + j]
        var at = pair(i, j) * words
        for (start in 0 until points step 64) {
            var below = 0L
            var upTo = 0L
            for (k in start until minOf(start + 64, points)) {
                val farther = maxOf(lengths[i * points + k], lengths[j * points + k])
                if (farther < length) below = below or (1L shl (k - start))
                if (farther <= length && k != i && k != j) upTo = upTo or (1L shl (k - start))
            }
            nearer[at] = below
            level[at] = upTo and below.inv()
            if (level[at] != 0L) anyLevel = true
            at++
        }
    }

    private inner class Subset(chosen: IntArray) {
        private val inside = LongArray(words)
        private val isFree = BooleanArray(points * (points - 1) / 2)

        /** Free pairs in order, as low point * points + high point. */
        private val free: IntArray
        private val size: Int
        private val basis = Basis()

        init {
            for (point in chosen) place[point].let { inside[it / 64] = inside[it / 64] or (1L shl (it % 64)) }
            val members = (0 until points).filter { inside[it / 64] ushr (it % 64) and 1L != 0L }
            size = members.size
            val found = IntArray(size * (size - 1) / 2)
            var count = 0
            for (b in 1 until size) for (a in 0 until b) {
                val at = pair(members[a], members[b])
                isFree[at] = isFree(at * words)
                if (isFree[at]) found[count++] = members[a] * points + members[b]
            }
            free = found.copyOf(count)
        }

        private fun isFree(at: Int): Boolean {
            for (word in 0 until words) if (nearer[at + word] and inside[word] != 0L) return false
            return true
        }

        fun number(): Int {
            if (size == 0) return 0
            val most = free.size - (size - 1) // the free pairs connect all points
            return most - rank(most)
        }

        /**
         * The rank of the triangles with two or three equal longest edges. It cannot exceed [most]; usually one
         * triangle per edge reaches that, and nothing needs to be reduced.
         */
        private fun rank(most: Int): Int {
            var rank = 0
            if (!anyLevel) return 0
            for (all in listOf(false, true)) for (edge in free) {
                if (rank == most) return rank
                rank += addTriangles(edge / points, edge % points, all, most - rank)
            }
            return rank
        }

        /** Adds triangles of a free pair, up to the first that starts a sum of the basis or all; returns the added
         * rank. */
        private fun addTriangles(low: Int, high: Int, all: Boolean, most: Int): Int {
            val at = pair(low, high)
            var added = 0
            for (word in 0 until words) {
                var left = level[at * words + word] and inside[word]
                while (left != 0L) {
                    if (added == most || (!all && basis.startsWith(at))) return added
                    val sum = triangle(low, high, 64 * word + java.lang.Long.numberOfTrailingZeros(left))
                    if (sum != null && basis.add(sum)) added++
                    left = left and (left - 1)
                }
            }
            return added
        }

        /**
         * The free pairs of a triangle that are its longest, descending; null if the given pair is not the last of
         * these.
         */
        private fun triangle(low: Int, high: Int, third: Int): IntArray? {
            val last = pair(low, high)
            val others = intArrayOf(low, high)
                .filter { lengths[third * points + it] >= lengths[low * points + high] }
                .map { pair(it, third) }
                .filter { isFree[it] }
            if (others.any { it > last }) return null
            return intArrayOf(last) + others.sortedDescending()
        }
    }
}

/** Sums of pairs mod 2 in echelon form: each is a list of pairs in descending order, indexed by its first pair. */
private class Basis {
    private val sums = HashMap<Int, IntArray>()

    fun startsWith(pair: Int): Boolean = sums.containsKey(pair)

    /** Adds a sum; returns whether it is independent of those already present. */
    fun add(sum: IntArray): Boolean {
        var left = sum
        while (left.isNotEmpty()) {
            val there = sums[left[0]]
            if (there == null) {
                sums[left[0]] = left
                return true
            }
            left = sumOf(left, there)
        }
        return false
    }

    private fun sumOf(a: IntArray, b: IntArray): IntArray {
        val made = IntArray(a.size + b.size)
        var size = 0
        var i = 0
        var j = 0
        while (i < a.size || j < b.size) {
            when {
                j == b.size || (i < a.size && a[i] > b[j]) -> made[size++] = a[i++]
                i == a.size || a[i] < b[j] -> made[size++] = b[j++]
                else -> {
                    i++
                    j++
                }
            }
        }
        return made.copyOf(size)
    }
}

/** Index of the pair of two different points among all pairs. */
private fun pair(a: Int, b: Int): Int = if (a < b) b * (b - 1) / 2 + a else a * (a - 1) / 2 + b

/** Distances as float32; those out of range become infinite. */
private fun checked(distance: DoubleArray, points: Int): FloatArray {
    require(distance.size == points * points) {
        "$points points have ${points * points} distances, found ${distance.size}"
    }
    val lengths = FloatArray(distance.size) { distance[it].toFloat() }
    for (i in 0 until points) for (j in 0 until points) {
        val there = lengths[i * points + j]
        require(there >= 0) { "the distance from point $i to point $j is $there; expected one that is not negative" }
        require(i != j || there == 0f) { "point $i is at distance $there from itself; expected 0" }
        require(there == lengths[j * points + i]) { "the distances between points $i and $j are not symmetric" }
    }
    return lengths
}
