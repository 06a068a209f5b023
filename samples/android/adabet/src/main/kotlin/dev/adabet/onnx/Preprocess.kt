@file:JvmName("Preprocess")

package dev.adabet.onnx

import java.nio.ByteBuffer

/**
 * Converts raw numbers of whole samples, such as pixels from 0 to 255, to the input: scale, mean, std, and the order of
 * colours (raw ones are red, green, blue). Steps that the package does not define are skipped.
 *
 * @throws DeviceException the numbers are not whole samples, or the package's rule does not fit the input
 */
public fun Description.feed(input: Port, raw: FloatArray): ByteBuffer {
    if (raw.size % input.elements != 0L)
        fail(
            Problem.WRONG_SHAPE,
            "there are ${raw.size} numbers; a sample of '${shown(input.name)}' has ${input.elements}",
        )
    val rule = preprocessing
    if (rule == null || input.dtype != DType.FLOAT32) return bytesOf(raw)
    val axis = rule.channelAxis?.minus(1)
    if (axis != null && axis >= input.shape.size)
        fail(
            Problem.WRONG_SHAPE,
            "'channel_axis' is ${axis + 1}; '${shown(input.name)}' has ${input.shape.size + 1} dimensions",
        )
    val channels = if (axis == null) 1 else input.shape[axis]
    val behind = if (axis == null) input.shape else input.shape.drop(axis + 1)
    val inner = behind.fold(1) { size, extent -> size * extent }
    val mean = spread(rule.mean, "mean", channels)
    val std = spread(rule.std, "std", channels)
    val turned = rule.bgr && channels == 3
    return bytesOf(
        FloatArray(raw.size) { i ->
            val channel = i / inner % channels
            val from = if (turned) i + (2 - 2 * channel) * inner else i
            (raw[from] * rule.scale - mean[channel]) / std[channel]
        },
    )
}

private fun spread(numbers: List<Float>, key: String, channels: Int): FloatArray {
    if (numbers.size != 1 && numbers.size != channels)
        fail(Problem.WRONG_SHAPE, "'$key' of 'preprocessing' has ${numbers.size} numbers; expected 1 or $channels")
    return FloatArray(channels) { numbers[if (numbers.size == 1) 0 else it] }
}

/**
 * Converts a picture to the input. Transparency is dropped; if the model has one channel, it is the luma (ITU-R 601).
 * Without a rule in the package, the values are 0 to 255.
 *
 * @param argb a number for each pixel, row by row, as from Android's Bitmap.getPixels
 * @throws DeviceException the size of the picture differs from the input's: scale it first
 */
public fun Description.feedPicture(input: Port, argb: IntArray, width: Int, height: Int): ByteBuffer {
    val layout = PictureLayout.of(this, input)
    if (layout.width != width || layout.height != height || argb.size != width * height)
        fail(
            Problem.WRONG_SHAPE,
            "the picture has $width x $height pixels (${argb.size}); the model takes ${layout.width} x " +
                "${layout.height}: scale it first",
        )
    val pixels = width * height
    val raw = FloatArray(pixels * layout.channels)
    val step = if (layout.channelsFirst) 1 else layout.channels
    val apart = if (layout.channelsFirst) pixels else 1
    for (i in argb.indices) {
        val (r, g, b) = listOf(argb[i] shr 16 and 255, argb[i] shr 8 and 255, argb[i] and 255)
        if (layout.channels == 1) {
            raw[i] = ((r * 19595 + g * 38470 + b * 7471 + 0x8000) shr 16).toFloat()
        } else {
            raw[i * step] = r.toFloat()
            raw[i * step + apart] = g.toFloat()
            raw[i * step + 2 * apart] = b.toFloat()
        }
    }
    return feed(input, raw)
}

/** The picture layout of an input. */
public class PictureLayout private constructor(
    public val width: Int,
    public val height: Int,
    /** 1 or 3. */
    public val channels: Int,
    internal val channelsFirst: Boolean,
) {
    public companion object {
        private val CHANNELS = listOf(1, 3)

        /** @throws DeviceException the input cannot take pictures */
        @JvmStatic
        public fun of(description: Description, input: Port): PictureLayout {
            val shape = input.shape
            val guessed = if (shape.firstOrNull() in CHANNELS) 0 else 2
            val axis = description.preprocessing?.channelAxis?.minus(1) ?: guessed
            val fits = shape.size == 3 && axis in listOf(0, 2) && shape[axis] in CHANNELS
            if (!fits || input.dtype != DType.FLOAT32)
                fail(Problem.WRONG_SHAPE, "'${shown(input.name)}' of the shape $shape cannot take pictures")
            val (height, width) = if (axis == 0) shape.drop(1) else shape.dropLast(1)
            return PictureLayout(width, height, shape[axis], axis == 0)
        }
    }
}
