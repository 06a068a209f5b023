package dev.adabet.onnx

internal const val MOST_SHUFFLED = 1 shl 21

/** The random numbers of docs/device-package.md, the same in every language. */
internal class Random(seed: Long, stream: Int) {
    private var state = seed.toInt() + stream * 0x6C078965

    fun next(): Int {
        state += -0x61C88647 // 0x9E3779B9
        var z = state
        z = (z xor (z ushr 16)) * -0x7A143595 // 0x85EBCA6B
        z = (z xor (z ushr 13)) * -0x3D4D51CB // 0xC2B2AE35
        return z xor (z ushr 16)
    }

    fun below(n: Int): Int = ((next().toLong() and 0xFFFFFFFFL) * n ushr 32).toInt()

    /** m of 0 to n - 1, ascending. */
    fun subset(n: Int, m: Int): IntArray {
        val all = IntArray(n) { it }
        for (i in 0 until m) all.swap(i, i + below(n - i))
        return all.copyOf(m).apply { sort() }
    }
}

/** A permutation of 0 to n - 1. */
internal fun shuffled(n: Int, seed: Long, stream: Int): IntArray {
    val random = Random(seed, stream)
    val order = IntArray(n) { it }
    for (i in n - 1 downTo 1) order.swap(i, random.below(i + 1))
    return order
}

private fun IntArray.swap(i: Int, j: Int) {
    val kept = this[i]
    this[i] = this[j]
    this[j] = kept
}
