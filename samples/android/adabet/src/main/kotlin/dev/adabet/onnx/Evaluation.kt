package dev.adabet.onnx

/** Loss and accuracy of an entry on samples. */
public class Evaluation internal constructor(
    /** Mean over the labels that count; NaN if there are none. */
    public val loss: Double,
    /** Share of correct predictions among the labels that count; null without classes, or if none counts. */
    public val accuracy: Double?,
)

/** Held-out samples, and the graph that evaluates them. */
internal class Evaluator(
    private val device: DevicePackage,
    private val entry: Entry,
    samples: Samples,
    private val size: Int,
) : AutoCloseable {
    private val closing = Closing()
    private val labels = device.description.labels
    private val checked = device.description.checked(samples, true, "held-out data")
    private val rows = Features(device, entry, checked).use { features ->
        for (sample in 0 until features.count) features.compute(sample)
        features.rows()
    } + checked.labels!!
    private val labelPort = Port(entry.names.labels, labels.port.dtype, labels.port.shape)
    private val batch: Batch
    private val logits: Batch
    private val loss: Scalar
    private val graph: Graph

    init {
        try {
            val ins = entry.boundary.map { it.port } + labelPort
            val most = minOf(size, checked.count)
            batch = closing.later(Batch(device.runtime, ins, most))
            logits = closing.later(Batch(device.runtime, listOf(entry.logits), most))
            loss = closing.later(Scalar(device.runtime, DType.FLOAT32))
            val slots = ins.map(::slot) + entry.kept.map { floats(it.input) }
            graph = closing.later(
                Graph.open(device, entry.files.evaluation, slots, listOf(floats(entry.names.loss), slot(entry.logits))),
            )
        } catch (error: Throwable) {
            closing.close()
            throw error
        }
    }

    fun evaluate(values: Values): Evaluation {
        var sum = 0.0
        var weight = 0L
        var right = 0L
        for (first in 0 until checked.count step size) {
            val count = minOf(size, checked.count - first)
            val fed = batch.fill(rows, IntArray(count) { first + it })
            graph.run(graph.taken(fed + values.inputs), logits.of(count) + (entry.names.loss to loss.tensor))
            val counted = counted(count)
            if (counted > 0) sum += loss.float.toDouble() * counted
            weight += counted
            if (hasClasses) right += right(count)
        }
        return Evaluation(
            if (weight > 0) sum / weight else Double.NaN,
            if (hasClasses && weight > 0) right.toDouble() / weight else null,
        )
    }

    private val hasClasses = entry.classAxis != null && labels.isWhole &&
        entry.logits.elements / entry.logits.shape[entry.classAxis] == labels.port.elements

    private fun label(place: Int): Long = labels.at(batch.room(labelPort.name), place)

    private fun counts(place: Int): Boolean = labels.ignore == null || !labels.isWhole || label(place) != labels.ignore

    private fun counted(samples: Int): Int = (0 until samples * labels.port.elements.toInt()).count { counts(it) }

    /** Number of labels that count and have the largest logit, the first of equal ones. */
    private fun right(samples: Int): Int {
        val axis = entry.classAxis!!
        val classes = entry.logits.shape[axis]
        val inner = entry.logits.shape.drop(axis + 1).fold(1) { size, extent -> size * extent }
        val numbers = logits.room(entry.names.logits).asFloatBuffer()
        return (0 until samples * labels.port.elements.toInt()).count { place ->
            val start = place / inner * inner * classes + place % inner
            var best = 0
            for (c in 1 until classes) if (numbers[start + c * inner] > numbers[start + best * inner]) best = c
            counts(place) && label(place) == best.toLong()
        }
    }

    override fun close(): Unit = closing.close()
}
