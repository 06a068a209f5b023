package dev.adabet.onnx

import java.io.File
import java.nio.ByteBuffer

private const val DELTA = "adabet-onnx/delta"
private const val PROGRESS = "adabet-onnx/progress"

/** The position in training. */
internal class Place(val epoch: Long, val step: Long, val seed: Long, val batchSize: Long)

/** Writes a delta or, with a place, progress. */
internal fun save(device: DevicePackage, entry: Entry, values: ByteBuffer, place: Place?, file: File) {
    val tensors = if (place == null) entry.kept else entry.tensors
    val digest = newDigest()
    for (tensor in tensors) digest.update(values.part(tensor.offset.toInt(), tensor.bytes.toInt()))
    val metadata = linkedMapOf(
        "format" to if (place == null) DELTA else PROGRESS,
        "version" to "1",
        "model_sha256" to device.description.modelSha256,
        "entry" to entry.name,
        "sha256" to hex(digest.digest()),
    )
    if (place != null) {
        metadata["package"] = device.sha256
        metadata["epoch"] = "${place.epoch}"
        metadata["step"] = "${place.step}"
        metadata["seed"] = "${place.seed}"
        metadata["batch_size"] = "${place.batchSize}"
    }
    writeFile(file) { SafeTensors.write(it, metadata, tensors, values) }
}

private fun SafeTensors.expect(key: String, expected: String) {
    val found = metadata(key)
    if (found != expected)
        fail(Problem.WRONG_MODEL, "$file: '$key' is ${shown(found ?: "missing")}; expected ${shown(expected)}")
}

private fun SafeTensors.number(key: String): Long {
    val found = metadata(key) ?: "missing"
    if (found.length in 1..18 && found.all { it in '0'..'9' }) return found.toLong()
    fail(Problem.WRONG_FILE, "$file: '$key' is ${shown(found, 40)}; expected a decimal number")
}

/** Whether a file is a progress file. */
private val SafeTensors.isProgress: Boolean get() = metadata("format") == PROGRESS

/** Reads the numbers of a file into [values]; returns the position in training if it is progress. */
private fun SafeTensors.take(device: DevicePackage, entry: Entry, progress: Boolean, values: ByteBuffer): Place? {
    expect("format", if (progress) PROGRESS else DELTA)
    expect("version", "1")
    expect("model_sha256", device.description.modelSha256)
    expect("entry", entry.name)
    if (progress) expect("package", device.sha256)
    val place = if (progress) Place(number("epoch"), number("step"), number("seed"), number("batch_size")) else null
    val found = sha256()
    val expected = metadata("sha256")
    if (found != expected)
        fail(
            Problem.WRONG_HASH,
            "$file: its data has the SHA-256 $found; expected ${shown(expected ?: "one in its metadata")}",
        )
    val wanted = if (progress) entry.tensors else entry.kept
    if (tensors.size != wanted.size)
        fail(Problem.WRONG_SHAPE, "$file has ${tensors.size} tensors; expected ${wanted.size}")
    for (tensor in wanted) {
        val stored = tensors[tensor.name]
        val same = stored != null && stored.dtype == "F32" && stored.bytes.capacity().toLong() == tensor.bytes &&
            stored.shape == tensor.shape.map { it.toLong() }
        if (!same)
            fail(
                Problem.WRONG_SHAPE,
                "$file: '${shown(tensor.name)}' " +
                    (if (stored == null) "is missing; " else "has another data type or shape; ") +
                    "expected float32 of the shape ${tensor.shape}",
            )
        copy(stored.bytes, 0, values, tensor.offset.toInt(), tensor.bytes.toInt())
    }
    notFinite(wanted, values)?.let { fail(Problem.NOT_FINITE, "$file: '${shown(it)}' is not finite") }
    return place
}

private val Entry.dataBytes: Long get() = tensors.sumOf { it.bytes }

/** Reads progress into [values]. */
internal fun restore(device: DevicePackage, entry: Entry, file: File, values: ByteBuffer): Place =
    SafeTensors.read(file, entry.dataBytes).take(device, entry, true, values)!!

/** Loads a personal model from a delta or progress file. */
internal fun load(device: DevicePackage, file: File): PersonalModel {
    val entries = device.description.entries
    val stored = SafeTensors.read(file, entries.maxOf { it.dataBytes })
    stored.expect("model_sha256", device.description.modelSha256)
    val name = stored.metadata("entry")
    val entry = entries.firstOrNull { it.name == name }
        ?: fail(Problem.WRONG_MODEL, "$file is for the entry '${shown(name ?: "")}', which the package does not have")
    val values = guarded("the entry's values") { room(entry.stateBytes) }
    stored.take(device, entry, stored.isProgress, values)
    return PersonalModel(device, entry, values)
}
