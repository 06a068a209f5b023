package dev.adabet.onnx

import ai.onnxruntime.OnnxTensor
import java.nio.ByteBuffer

/** Numbers of samples, one after the other or each on its own. One thread at a time may use it. */
internal fun interface Rows {
    /** Puts the numbers of a sample where [to] stands. */
    fun put(sample: Int, to: ByteBuffer)
}

internal fun rowsOf(port: Port, data: ByteBuffer): Rows {
    val bytes = port.bytes.toInt()
    val view = data.whole() // one for all calls, for steps to make no garbage
    return Rows { sample, to ->
        view.limit((sample + 1) * bytes)
        view.position(sample * bytes)
        to.put(view)
    }
}

internal fun rowsOf(kept: List<ByteArray>): Rows = Rows { sample, to -> to.put(kept[sample]) }

/**
 * Room for some values of up to [most] samples, where ONNX Runtime reads or writes them. It is asked for once, and so
 * are the tensors that lie in it, one for each number of samples: there are at most two.
 */
internal class Batch(
    private val runtime: Runtime,
    private val ports: List<Port>,
    private val most: Int,
) : AutoCloseable {
    private val rooms = guarded("batches of $most samples") { ports.map { direct(times(it.bytes, most.toLong())) } }
    private val tensors = HashMap<Int, Map<String, OnnxTensor>>()

    /** The numbers of a port. */
    fun room(name: String): ByteBuffer = rooms[ports.indexOfFirst { it.name == name }]

    /** Tensors of so many samples, by name. */
    fun of(samples: Int): Map<String, OnnxTensor> = tensors.getOrPut(samples) {
        ports.mapIndexed { i, port ->
            val shape = longArrayOf(samples.toLong()) + port.shape.map { it.toLong() }
            val part = rooms[i].part(0, (port.bytes * samples).toInt())
            port.name to guarded(port.name) { runtime.tensor(part, shape, port.dtype) }
        }.toMap()
    }

    /** Takes samples in; their tensors. */
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

/** One number where ONNX Runtime reads or writes it. */
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

/** Values of an entry's tensors in one buffer, where ONNX Runtime reads and writes them. */
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

/** The name of a tensor with a number that is not finite, or null. */
internal fun notFinite(tensors: List<Tensor>, bytes: ByteBuffer): String? = tensors.firstOrNull { tensor ->
    val numbers = bytes.part(tensor.offset.toInt(), tensor.bytes.toInt()).asFloatBuffer()
    var found = false
    while (numbers.hasRemaining()) if (!numbers.get().isFinite()) found = true
    found
}?.name
