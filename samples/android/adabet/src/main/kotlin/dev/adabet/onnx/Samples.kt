package dev.adabet.onnx

import java.nio.ByteBuffer

/**
 * Samples in the form of the model's input: by input name, the numbers of one sample after another (see [bytesOf]), and
 * labels if they are needed. Buffers are read from their start to their capacity, and never changed.
 */
public class Samples @JvmOverloads constructor(
    public val inputs: Map<String, ByteBuffer>,
    public val labels: ByteBuffer? = null,
)

/** Samples checked against a package. */
internal class CheckedSamples(val count: Int, val inputs: List<Rows>, val labels: Rows?)

internal fun Description.checked(samples: Samples, labelled: Boolean, what: String): CheckedSamples {
    val columns = inputs.map { port ->
        val data = samples.inputs[port.name]
            ?: fail(Problem.USAGE, "$what: the numbers for the model's input are missing: '${shown(port.name)}'")
        Pair(port, data)
    }
    val counts = columns.map { (port, data) -> count(port, data, what) }
    for ((i, count) in counts.withIndex())
        if (count != counts[0])
            fail(
                Problem.WRONG_SHAPE,
                "$what: '${shown(inputs[i].name)}' has $count samples; '${shown(inputs[0].name)}' has ${counts[0]}",
            )
    if (counts[0] == 0) fail(Problem.TOO_FEW, "$what: there are no samples")
    val rows = columns.map { (port, data) -> rowsOf(port, data) }
    return CheckedSamples(counts[0], rows, if (labelled) checkedLabels(samples, counts[0], what) else null)
}

private fun count(port: Port, data: ByteBuffer, what: String): Int {
    if (data.capacity() % port.bytes == 0L) return (data.capacity() / port.bytes).toInt()
    fail(
        Problem.WRONG_SHAPE,
        "$what: '${shown(port.name)}' has ${data.capacity()} bytes; a sample (${port.elements} of " +
            "${port.dtype.label}) has ${port.bytes}, expected a multiple of that",
    )
}

private fun Description.checkedLabels(samples: Samples, count: Int, what: String): Rows {
    val data = samples.labels ?: fail(Problem.USAGE, "$what: there are no labels")
    val found = count(labels.port, data, what)
    if (found != count) fail(Problem.WRONG_SHAPE, "$what: there are labels for $found samples, but $count samples")
    labels.check(data.whole(), what)
    return rowsOf(labels.port, data)
}

private fun Labels.check(data: ByteBuffer, what: String) {
    for (i in 0 until data.capacity() / port.dtype.width) {
        if (isWhole) {
            val label = at(data, i)
            if (classes != null && label != ignore && label !in 0 until classes)
                fail(Problem.WRONG_LABEL, "$what: label $i is $label; expected 0 to ${classes - 1}")
        } else if (!data.getFloat(4 * i).isFinite()) {
            fail(Problem.WRONG_LABEL, "$what: label $i is ${data.getFloat(4 * i)}; expected a finite number")
        }
    }
}

internal val Labels.isWhole: Boolean get() = port.dtype != DType.FLOAT32

/** An integer label. */
internal fun Labels.at(data: ByteBuffer, place: Int): Long =
    if (port.dtype == DType.INT64) data.getLong(8 * place) else data.getInt(4 * place).toLong()
