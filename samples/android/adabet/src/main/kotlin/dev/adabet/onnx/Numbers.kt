@file:JvmName("Numbers")

package dev.adabet.onnx

import ai.onnxruntime.OnnxJavaType
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Data types, those of ONNX Runtime's Java API. */
public enum class DType(
    /** The name in device.json. */
    public val label: String,
    /** Bytes of a number. */
    public val width: Int,
    internal val java: OnnxJavaType,
) {
    FLOAT32("float32", 4, OnnxJavaType.FLOAT),
    FLOAT64("float64", 8, OnnxJavaType.DOUBLE),
    FLOAT16("float16", 2, OnnxJavaType.FLOAT16),
    INT64("int64", 8, OnnxJavaType.INT64),
    INT32("int32", 4, OnnxJavaType.INT32),
    INT16("int16", 2, OnnxJavaType.INT16),
    INT8("int8", 1, OnnxJavaType.INT8),
    UINT8("uint8", 1, OnnxJavaType.UINT8),
    BOOL("bool", 1, OnnxJavaType.BOOL),
}

/** Numbers as little-endian data for a model. */
public fun bytesOf(numbers: FloatArray): ByteBuffer = room(4L * numbers.size).also { it.asFloatBuffer().put(numbers) }

/** Numbers, such as labels, as little-endian data for a model. */
public fun bytesOf(numbers: LongArray): ByteBuffer = room(8L * numbers.size).also { it.asLongBuffer().put(numbers) }

/** Zeros on the heap, which are garbage collected. */
internal fun room(bytes: Long): ByteBuffer = ByteBuffer.wrap(ByteArray(fits(bytes))).order(ByteOrder.LITTLE_ENDIAN)

/**
 * Zeros in direct memory, which ONNX Runtime can access. Such memory is garbage collected late, since its object is
 * small: allocate it once for all steps, never within a step.
 */
internal fun direct(bytes: Long): ByteBuffer = ByteBuffer.allocateDirect(fits(bytes)).order(ByteOrder.LITTLE_ENDIAN)

private fun fits(bytes: Long): Int {
    if (bytes in 0..Int.MAX_VALUE.toLong() - 64) return bytes.toInt()
    fail(Problem.NO_MEMORY, "there is not enough memory: $bytes bytes exceed the size of an array")
}

/** A part of a buffer, with the same bytes. */
internal fun ByteBuffer.part(offset: Int, bytes: Int): ByteBuffer {
    val view = duplicate()
    view.limit(offset + bytes)
    view.position(offset)
    return view.slice().order(ByteOrder.LITTLE_ENDIAN)
}

/** All bytes of a buffer, whatever its position. */
internal fun ByteBuffer.whole(): ByteBuffer = part(0, capacity())

/** Copies bytes between buffers, whatever their positions. */
internal fun copy(from: ByteBuffer, offset: Int, to: ByteBuffer, at: Int, bytes: Int) {
    val target = to.duplicate()
    target.position(at)
    target.put(from.part(offset, bytes))
}

/** a * b, or a value above every real size on overflow. */
internal fun times(a: Long, b: Long): Long = if (a != 0L && b > Long.MAX_VALUE / a) Long.MAX_VALUE else a * b
