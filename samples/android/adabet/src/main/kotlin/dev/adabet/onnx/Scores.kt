package dev.adabet.onnx

import kotlin.math.sqrt

internal const val FEWEST_SCORED = 8

/** The scores of layers. */
public class Scores(
    /** By layer. */
    public val layers: Map<String, Double>,
)

/** An entry that was chosen. */
public class Choice internal constructor(
    public val entry: Entry,
    /** The sum of its layers' scores. */
    public val worth: Double,
    /** Bytes needed to train it. */
    public val bytes: Long,
)

/** Called after each sample and each layer; false ends scoring. */
public fun interface ScoreWatch {
    public fun told(done: Int, of: Int): Boolean
}

internal fun scored(device: DevicePackage, samples: Samples, watch: ScoreWatch): Scores {
    val scoring = device.description.scoring
        ?: fail(Problem.USAGE, "the package has no graph for scoring: create one that does")
    val checked = device.description.checked(samples, false, "data")
    val n = minOf(scoring.samples, checked.count)
    if (n < FEWEST_SCORED) fail(Problem.TOO_FEW, "there are $n samples; scoring needs at least $FEWEST_SCORED")
    var done = 0
    val tell = { if (!watch.told(++done, n + scoring.layers.size)) fail(Problem.CANCELLED, "scoring was stopped") }
    val numbers = activations(device, scoring, checked, n, tell)
    val points = minOf(scoring.points, n)
    val random = Random(scoring.seed, 0)
    val subsets = List(if (points == n) 1 else scoring.subsets) { random.subset(n, points) }
    return Scores(
        scoring.layers.indices.associate { i ->
            val loops = guarded("the distances of $n samples") { Loops(distances(numbers[i]), n) }
            val sum = subsets.sumOf { loops.count(it).toLong() }
            tell()
            scoring.layers[i].name to sum.toDouble() / subsets.size / (points * scoring.layers[i].size)
        },
    )
}

/** For each layer, the numbers that represent each sample's activation. */
private fun activations(
    device: DevicePackage,
    scoring: Scoring,
    samples: CheckedSamples,
    n: Int,
    tell: () -> Unit,
): List<Array<FloatArray>> =
    Closing().use { closing ->
        val ins = device.description.inputs
        val ports = scoring.layers.map { Port(it.output, DType.FLOAT32, listOf(it.numbers)) }
        val graph = closing.later(Graph.open(device, scoring.file, ins.map(::slot), ports.map(::slot)))
        val fed = closing.later(Batch(device.runtime, ins, 1))
        val feeds = graph.taken(fed.of(1))
        val outputs = ports.map { it.name }.toSet()
        val found = List(ports.size) { arrayOfNulls<FloatArray>(n) }
        for (sample in 0 until n) {
            fed.fill(samples.inputs, intArrayOf(sample))
            val given = graph.run(feeds, outputs) { name, tensor -> name to tensor.floatBuffer }.toMap()
            for ((i, layer) in scoring.layers.withIndex()) {
                val numbers = given.getValue(layer.output)
                if (numbers.capacity() != layer.numbers)
                    fail(
                        Problem.WRONG_SHAPE,
                        "'${shown(layer.output)}' has ${numbers.capacity()} numbers; expected ${layer.numbers} of " +
                            "float32",
                    )
                val kept = guarded("the activations of $n samples") { FloatArray(layer.numbers) }
                numbers.duplicate().get(kept)
                if (!kept.all { it.isFinite() })
                    fail(
                        Problem.NOT_FINITE,
                        "the activation of layer '${shown(layer.name)}' is not finite for sample $sample",
                    )
                found[i][sample] = kept
            }
            tell()
        }
        found.map { rows -> Array(n) { rows[it]!! } }
    }

/** Euclidean distances in double precision, row by row. */
internal fun distances(rows: Array<FloatArray>): DoubleArray {
    val n = rows.size
    val made = DoubleArray(n * n)
    for (i in 0 until n) for (j in i + 1 until n) {
        var sum = 0.0
        for (k in rows[i].indices) {
            val apart = rows[i][k].toDouble() - rows[j][k].toDouble()
            sum += apart * apart
        }
        made[i * n + j] = sqrt(sum)
        made[j * n + i] = made[i * n + j]
    }
    return made
}

/** The entry with the highest score among those that need at most so many bytes; ties go to the smaller memory, then to
 * the first. */
internal fun chosen(entries: List<Entry>, scores: Scores, batch: Int, memory: Long?): Choice {
    if (batch < 1) fail(Problem.USAGE, "a batch size of $batch; expected at least 1")
    scores.layers.entries.firstOrNull { !it.value.isFinite() }?.let {
        fail(Problem.NOT_FINITE, "the score of '${shown(it.key)}' is not finite")
    }
    val all = entries.map { entry ->
        var worth = 0.0
        for (layer in entry.layers) worth += scores.layers[layer] ?: 0.0
        Choice(entry, worth, entry.memoryAt(batch))
    }
    return all.filter { memory == null || it.bytes <= memory }
        .reduceOrNull { best, other -> if (isBetter(other, best)) other else best }
        ?: fail(
            Problem.NO_MEMORY,
            "no choice of layers can be trained in $memory bytes at a batch size of $batch: the smallest needs " +
                "${all.minOf { it.bytes }}",
        )
}

private fun isBetter(one: Choice, other: Choice): Boolean =
    one.worth > other.worth || (one.worth == other.worth && one.bytes < other.bytes)
