package dev.adabet.app.logic

import dev.adabet.onnx.Description
import dev.adabet.onnx.PictureLayout
import dev.adabet.onnx.Samples
import dev.adabet.onnx.bytesOf
import dev.adabet.onnx.feedPicture
import java.io.File
import java.io.FileOutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * Labelled pictures in the form of the model's input, stored in two files, so that they survive a restart of the app.
 */
class LabelledPictures(folder: File, private val description: Description) {
    private val pictures = File(folder, "pictures")
    private val labels = File(folder, "labels")
    private val input = description.inputs[0]
    private val sample = input.bytes

    init {
        folder.mkdirs()
    }

    val layout: PictureLayout = PictureLayout.of(description, input)

    /** Number of complete ones: a label is written after its picture. */
    val count: Int get() = minOf(pictures.length() / sample, labels.length() / Long.SIZE_BYTES).toInt()

    /** @param argb a number for each pixel, of the size in [layout] */
    @Synchronized
    fun add(argb: IntArray, label: Int) {
        val whole = count
        append(pictures, whole * sample, description.feedPicture(input, argb, layout.width, layout.height))
        append(labels, whole.toLong() * Long.SIZE_BYTES, bytesOf(longArrayOf(label.toLong())))
    }

    @Synchronized
    fun clear() {
        labels.delete()
        pictures.delete()
    }

    /** Number of pictures of each class. */
    fun perClass(): Map<Long, Int> = read(labels, Long.SIZE_BYTES) { true }.asLongBuffer().let { numbers ->
        List(numbers.remaining()) { numbers.get(it) }.groupingBy { it }.eachCount()
    }

    /** Every fifth picture is held out for evaluation. */
    fun training(): Samples = samples { it % FIFTH != FIFTH - 1 }

    fun heldOut(): Samples = samples { it % FIFTH == FIFTH - 1 }

    private fun samples(wanted: (Int) -> Boolean) =
        Samples(mapOf(input.name to read(pictures, sample.toInt(), wanted)), read(labels, Long.SIZE_BYTES, wanted))

    private fun append(file: File, at: Long, bytes: ByteBuffer) {
        FileOutputStream(file, true).use {
            it.channel.truncate(at) // removes an incomplete picture
            it.channel.position(at)
            it.channel.write(bytes)
        }
    }

    @Synchronized
    private fun read(file: File, bytes: Int, wanted: (Int) -> Boolean): ByteBuffer {
        val rows = (0 until count).filter(wanted)
        val made = ByteBuffer.allocate(Math.multiplyExact(rows.size, bytes)).order(ByteOrder.LITTLE_ENDIAN)
        if (rows.isEmpty()) return made
        file.inputStream().channel.use { channel ->
            for (row in rows) {
                made.limit(made.position() + bytes)
                channel.position(row.toLong() * bytes)
                while (made.hasRemaining() && channel.read(made) >= 0) continue
            }
        }
        made.rewind()
        return made
    }

    private companion object {
        const val FIFTH = 5
    }
}
