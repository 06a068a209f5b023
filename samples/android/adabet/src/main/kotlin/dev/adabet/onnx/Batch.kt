package dev.adabet.onnx

import ai.onnxruntime.OnnxTensor
import java.nio.ByteBuffer

/** A source of samples' numbers. Only one thread at a time may use it. */
internal fun interface Rows {
    /** Writes the numbers of a sample at the position of [to]. */
    fun put(sample: Int, to: ByteBuffer)
}

internal fun rowsOf(port: Port, data: ByteBuffer): Rows {
    val bytes = port.bytes.toInt()
    val view = data.whole() // shared by all calls, so that steps allocate nothing
    return Rows { sample, to ->
        view.limit((sample + 1) * bytes)
        view.position(sample * bytes)
        to.put(view)
    }
}

internal fun rowsOf(kept: List<ByteArray>): Rows = Rows { sample, to -> to.put(kept[sample]) }

/**
 * Memory for values of up to [most] samples, which ONNX Runtime reads and writes directly. It is allocated once, as are
 * the tensors over it, one for each number of samples: there are at most two.
 */
internal class Batch(
    private val runtime: Runtime,
    private val ports: List<Port>,
    private val most: Int,
) : AutoCloseable {
    private val rooms = guarded("batches of $most samples") { ports.map { direct(times(it.bytes, most.toLong())) } }
    private val tensors = HashMap<Int, Map<String, OnnxTensor>>()

    /** The memory of a port. */
    fun room(name: String): ByteBuffer = rooms[ports.indexOfFirst { it.name == name }]

    /** Tensors for so many samples, by name. */
    fun of(samples: Int): Map<String, OnnxTensor> = tensors.getOrPut(samples) {
        ports.mapIndexed { i, port ->
            val shape = longArrayOf(samples.toLong()) + port.shape.map { it.toLong() }
            val part = rooms[i].part(0, (port.bytes * samples).toInt())
            port.name to guarded(port.name) { runtime.tensor(part, shape, port.dtype) }
        }.toMap()
    }

    /** Copies samples in; returns their tensors. */
    fun fill(rows: List<Rows>, samples: IntArray): Map<String, OnnxTensor> {
        for (i in rooms.indices) {
            rooms[i].clear()
            for (sample in samples) rows[i].put(sample, rooms[i])
        }
        return of(samples.size)
    }

    override fun close() {
        for (made in tensors.values) for (tensor in made.values) tensor.close()
        tensors.clear()
    }
}

/** One number that ONNX Runtime reads or writes directly. */
internal class Scalar(runtime: Runtime, private val dtype: DType) : AutoCloseable {
    private val room = direct(dtype.width.toLong())
    val tensor: OnnxTensor = guarded("a number") { runtime.tensor(room, longArrayOf(), dtype) }

    var float: Float
        get() = room.getFloat(0)
        set(value) { room.putFloat(0, value) }

    var long: Long
        get() = room.getLong(0)
        set(value) { room.putLong(0, value) }

    override fun close(): Unit = tensor.close()
}

/** Values of an entry's tensors in one buffer, which ONNX Runtime reads and writes directly. */
internal class Values(runtime: Runtime, private val tensors: List<Tensor>, val bytes: ByteBuffer) : AutoCloseable {
    private val made = guarded("the tensors") {
        tensors.map {
            val shape = LongArray(it.shape.size) { i -> it.shape[i].toLong() }
            runtime.tensor(bytes.part(it.offset.toInt(), it.bytes.toInt()), shape, DType.FLOAT32)
        }
    }

    val inputs: Map<String, OnnxTensor> = tensors.indices.associate { tensors[it].input to made[it] }
    val outputs: Map<String, OnnxTensor> = tensors.indices.associate { tensors[it].output to made[it] }

    override fun close(): Unit = made.forEach { it.close() }
}

/** The name of a tensor with a NaN or infinite number, or null. */
internal fun notFinite(tensors: List<Tensor>, bytes: ByteBuffer): String? = tensors.firstOrNull { tensor ->
    val numbers = bytes.part(tensor.offset.toInt(), tensor.bytes.toInt()).asFloatBuffer()
    var found = false
    while (numbers.hasRemaining()) if (!numbers.get().isFinite()) found = true
    found
}?.name
