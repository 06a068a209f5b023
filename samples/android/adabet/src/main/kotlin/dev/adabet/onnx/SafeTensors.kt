package dev.adabet.onnx

import java.io.File
import java.io.OutputStream
import java.nio.ByteBuffer

/** A tensor in a file: its type, shape and bytes. */
internal class Stored(val dtype: String, val shape: List<Long>, val bytes: ByteBuffer)

/** A safetensors file from an untrusted source: everything is checked. */
internal class SafeTensors private constructor(
    val file: File,
    private val metadata: Map<*, *>,
    val tensors: Map<String, Stored>,
    private val data: ByteBuffer,
) {
    fun metadata(key: String): String? = metadata[key] as String?

    /** SHA-256 of all bytes after the header. */
    fun sha256(): String = sha256Of(data)

    internal companion object {
        private fun wrong(file: File, why: String): Nothing = fail(Problem.WRONG_FILE, "$file $why")

        /** @param most maximum number of bytes of data */
        fun read(file: File, most: Long): SafeTensors {
            val all = readFile(file, most + 8 + Json.MOST_BYTES)
            val length = if (all.capacity() >= 8) all.getLong(0) else 0
            if (all.capacity() < 8 || length !in 0..minOf(Json.MOST_BYTES.toLong(), all.capacity() - 8L))
                wrong(
                    file,
                    "is not a safetensors file: ${all.capacity()} bytes, with a header of " +
                        "${java.lang.Long.toUnsignedString(length)}",
                )
            val header = Json.parse(all.part(8, length.toInt()), "$file") as? Map<*, *>
                ?: wrong(file, "has a header that is not an object")
            val data = all.part(8 + length.toInt(), all.capacity() - 8 - length.toInt())
            val metadata = header["__metadata__"] ?: emptyMap<String, String>()
            if (metadata !is Map<*, *> || !metadata.values.all { it is String })
                wrong(file, "has metadata that is not a string")
            val places = ArrayList<LongRange>()
            val tensors = LinkedHashMap<String, Stored>()
            for ((name, item) in header)
                if (name != "__metadata__") tensors[name as String] = tensor(file, name, item, data, places)
            filled(file, places, data.capacity())
            return SafeTensors(file, metadata, tensors, data)
        }

        private fun tensor(
            file: File,
            name: String,
            item: Any?,
            data: ByteBuffer,
            places: MutableList<LongRange>,
        ): Stored {
            val map = item as? Map<*, *>
            val dtype = map?.get("dtype") as? String
            val shape = (map?.get("shape") as? List<*>)?.map { it as? Long }
            val offsets = (map?.get("data_offsets") as? List<*>)?.map { it as? Long }
            val begin = offsets?.getOrNull(0)
            val end = offsets?.getOrNull(1)
            val typed = dtype != null && shape != null && null !in shape
            val placed = offsets?.size == 2 && begin != null && end != null
            if (!typed || !placed || begin < 0 || end < begin || end > data.capacity())
                wrong(file, "is wrong: '${shown(name)}' has no valid dtype, shape and offsets within the file")
            places.add(begin until end)
            return Stored(dtype, shape.map { it!! }, data.part(begin.toInt(), (end - begin).toInt()))
        }

        /** Checks that tensors fill the data without gaps and without overlapping. */
        private fun filled(file: File, places: List<LongRange>, bytes: Int) {
            var at = 0L
            for (place in places.sortedWith(compareBy({ it.first }, { it.last }))) {
                if (place.first != at) wrong(file, "is wrong: its tensors do not fill its $bytes bytes of data")
                at = place.last + 1
            }
            if (at != bytes.toLong()) wrong(file, "is wrong: its tensors do not fill its $bytes bytes of data")
        }

        /** Writes tensors in order; the header is padded so that the data begins at a multiple of 64. */
        fun write(to: OutputStream, metadata: Map<String, String>, tensors: List<Tensor>, values: ByteBuffer) {
            var at = 0L
            val items = tensors.map {
                val place = "[$at,${at + it.bytes}]"
                at += it.bytes
                val shape = it.shape.joinToString(",", "[", "]")
                "${Json.quoted(it.name)}:{\"dtype\":\"F32\",\"shape\":$shape,\"data_offsets\":$place}"
            }
            val about = metadata.entries.joinToString(",") { "${Json.quoted(it.key)}:${Json.quoted(it.value)}" }
            val text = (listOf("\"__metadata__\":{$about}") + items).joinToString(",", "{", "}").toByteArray()
            val header = text.copyOf((text.size + 8 + 63) / 64 * 64 - 8)
            header.fill(' '.code.toByte(), text.size)
            to.write(littleEndian(header.size.toLong()))
            to.write(header)
            for (tensor in tensors) to.put(values.part(tensor.offset.toInt(), tensor.bytes.toInt()))
        }
    }
}
