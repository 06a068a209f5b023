package dev.adabet.onnx

/**
 * The inputs of training steps: the frozen graph runs once for each sample, and its outputs are stored. Values that are
 * inputs of the model are not copied.
 */
internal class Features(
    private val device: DevicePackage,
    private val entry: Entry,
    private val samples: CheckedSamples,
) : AutoCloseable {
    private val closing = Closing()
    private val inputs = device.description.inputs
    private val computed = entry.boundary.filter { it.input == null }.map { it.port }
    private val kept = computed.associate { it.name to ArrayList<ByteArray>(samples.count) }
    private val frozen = if (computed.isEmpty()) null else opened()

    /** Number of samples to compute, one after another. */
    val count: Int = if (frozen == null) 0 else samples.count

    /** The graph, with memory for one sample. */
    private inner class Frozen {
        private val graph = closing.later(
            Graph.open(device, entry.files.frozen!!, inputs.map(::slot), computed.map(::slot), device.frozenOn),
        )
        private val fed = closing.later(Batch(device.runtime, inputs, 1))
        private val given = closing.later(Batch(device.runtime, computed, 1))
        private val feeds = graph.taken(fed.of(1))

        fun keep(sample: Int) {
            fed.fill(samples.inputs, intArrayOf(sample))
            graph.run(feeds, given.of(1))
            for (port in computed) {
                val bytes = guarded("the features of ${samples.count} samples") { ByteArray(port.bytes.toInt()) }
                given.room(port.name).part(0, bytes.size).get(bytes)
                kept.getValue(port.name).add(bytes)
            }
        }
    }

    private fun opened(): Frozen {
        try {
            return Frozen()
        } catch (error: Throwable) {
            closing.close()
            throw error
        }
    }

    fun compute(sample: Int) {
        frozen!!.keep(sample)
    }

    /** One source for each input of the steps, once all samples are computed. */
    fun rows(): List<Rows> = entry.boundary.map { boundary ->
        if (boundary.input == null) rowsOf(kept.getValue(boundary.port.name))
        else samples.inputs[inputs.indexOfFirst { it.name == boundary.input }]
    }

    override fun close(): Unit = closing.close()
}
