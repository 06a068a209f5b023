package dev.adabet.onnx

import java.io.File
import java.nio.ByteBuffer

/**
 * An output of a model: its little-endian numbers, and its shape, which usually begins with the number of samples.
 */
public class Output internal constructor(data: ByteBuffer, public val shape: LongArray) {
    public val data: ByteBuffer = data.whole()
}

/** Concatenates the outputs of batches. */
private fun joined(name: String, parts: List<Output>): Output {
    if (parts.size == 1) return parts[0]
    val first = parts[0].shape
    if (first.isEmpty() || parts.any { it.shape.size != first.size || it.shape.drop(1) != first.drop(1) })
        fail(
            Problem.WRONG_SHAPE,
            "the output '${shown(name)}' does not have the samples as its first axis: predict at most one batch",
        )
    return guarded("predictions") {
        val all = room(parts.sumOf { it.data.capacity().toLong() })
        for (part in parts) all.put(part.data.duplicate())
        Output(all, longArrayOf(parts.sumOf { it.shape[0] }) + first.drop(1))
    }
}

/** An entry with its trained values. It can be used while its package is open. */
public class PersonalModel internal constructor(
    private val device: DevicePackage,
    public val entry: Entry,
    private val values: ByteBuffer,
) {
    /**
     * The model's outputs by name.
     *
     * @throws DeviceException the samples do not fit, or ONNX Runtime reports an error
     */
    public fun predict(samples: Samples): Map<String, Output> = device.open {
        val description = device.description
        val checked = description.checked(samples, false, "data")
        val most = minOf(description.forwardBatch ?: description.training.batchSize, checked.count)
        val names = description.outputs.map { it.name }.toSet()
        val parts = names.associateWith { ArrayList<Output>() }
        Closing().use { closing ->
            val graph = device.predictor(entry)
            val fed = closing.later(Batch(device.runtime, description.inputs, most))
            val state = guarded("the entry's values") { direct(entry.selectedBytes.toLong()) }
            copy(values, 0, state, 0, entry.selectedBytes)
            val kept = closing.later(Values(device.runtime, entry.kept, state))
            for (first in 0 until checked.count step most) {
                val rows = IntArray(minOf(most, checked.count - first)) { first + it }
                val feeds = graph.taken(fed.fill(checked.inputs, rows) + kept.inputs)
                guarded("predictions of ${checked.count} samples") {
                    graph.run(feeds, names) { name, tensor ->
                        parts.getValue(name).add(Output(tensor.byteBuffer, tensor.info.shape))
                    }
                }
            }
        }
        parts.mapValues { (name, found) -> joined(name, found) }
    }

    /** Writes the trained values as a delta, a file to be sent. */
    public fun saveDelta(file: File) {
        notFinite(entry.kept, values)?.let { fail(Problem.NOT_FINITE, "'${shown(it)}' is not finite") }
        save(device, entry, values, null, file)
    }

    /** Writes the file that the personal model reads: together with the package's model it is an ordinary ONNX model.
     * */
    public fun saveSelected(file: File) {
        writeFile(file) { it.put(values.part(0, entry.selectedBytes)) }
    }
}
