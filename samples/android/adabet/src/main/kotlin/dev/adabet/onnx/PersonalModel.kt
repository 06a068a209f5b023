package dev.adabet.onnx

import java.io.File
import java.nio.ByteBuffer

/** An entry with values for what it trains. It may be used as long as its package is open. */
public class PersonalModel internal constructor(
    private val device: DevicePackage,
    public val entry: Entry,
    private val values: ByteBuffer,
) {
    /**
     * The model's outputs by name, of one sample after the other.
     *
     * @throws DeviceException samples do not fit; ONNX Runtime reports an error
     */
    public fun predict(samples: Samples): Map<String, ByteBuffer> = device.open {
        val description = device.description
        val checked = description.checked(samples, false, "data")
        val most = minOf(description.forwardBatch ?: description.training.batchSize, checked.count)
        val outputs = guarded("predictions of ${checked.count} samples") {
            description.outputs.associate { it.name to room(times(it.bytes, checked.count.toLong())) }
        }
        Closing().use { closing ->
            val graph = device.predictor(entry)
            val fed = closing.later(Batch(device.runtime, description.inputs, most))
            val given = closing.later(Batch(device.runtime, description.outputs, most))
            val state = guarded("the entry's values") { direct(entry.selectedBytes.toLong()) }
            copy(values, 0, state, 0, entry.selectedBytes)
            val kept = closing.later(Values(device.runtime, entry.kept, state))
            for (first in 0 until checked.count step most) {
                val count = minOf(most, checked.count - first)
                val feeds = fed.fill(checked.inputs, IntArray(count) { first + it })
                graph.run(graph.taken(feeds + kept.inputs), given.of(count))
                for (port in description.outputs) {
                    val bytes = port.bytes.toInt()
                    copy(given.room(port.name), 0, outputs.getValue(port.name), first * bytes, count * bytes)
                }
            }
        }
        outputs
    }

    /** Writes what was learned as a file that can travel. */
    public fun saveDelta(file: File) {
        notFinite(entry.kept, values)?.let { fail(Problem.NOT_FINITE, "'${shown(it)}' is not finite") }
        save(device, entry, values, null, file)
    }

    /** Writes the file that the personal model reads: beside the package's model it makes an ordinary ONNX model. */
    public fun saveSelected(file: File) {
        writeFile(file) { it.put(values.part(0, entry.selectedBytes)) }
    }
}
