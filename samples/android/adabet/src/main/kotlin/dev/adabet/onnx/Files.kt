package dev.adabet.onnx

import java.io.File
import java.io.FileInputStream
import java.io.FileOutputStream
import java.io.IOException
import java.io.OutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

private const val PART = 1 shl 16

internal fun hex(digest: ByteArray): String = digest.joinToString("") { "%02x".format(it) }

internal fun newDigest(): MessageDigest = MessageDigest.getInstance("SHA-256")

internal fun sha256Of(bytes: ByteBuffer): String = hex(newDigest().apply { update(bytes.duplicate()) }.digest())

private fun <T> reading(file: File, work: (FileInputStream) -> T): T {
    if (file.exists() && !file.isFile)
        fail(Problem.WRONG_FILE, "$file is not a file") // do not block on a pipe
    try {
        return FileInputStream(file).use(work)
    } catch (error: IOException) {
        throw DeviceException(Problem.WRONG_FILE, "$file cannot be read: ${why(error)}", error)
    }
}

/** Reads a whole file of at most so many bytes. */
internal fun readFile(file: File, most: Long): ByteBuffer = reading(file) { stream ->
    val size = file.length()
    if (size > most) fail(Problem.WRONG_FILE, "$file has $size bytes; expected at most $most")
    guarded("$file") {
        val bytes = room(size)
        var at = 0
        while (at < bytes.capacity()) {
            val got = stream.read(bytes.array(), at, bytes.capacity() - at)
            if (got < 0) fail(Problem.WRONG_FILE, "$file cannot be read to its end")
            at += got
        }
        bytes
    }
}

/** Checks the size of a file and, if given, its SHA-256, in chunks. */
internal fun checkFile(file: File, bytes: Long, sha256: String?): Unit = reading(file) { stream ->
    if (file.length() != bytes)
        fail(Problem.WRONG_FILE, "$file has ${file.length()} bytes; expected $bytes: copy the package again")
    if (sha256 != null) checkHash(file, stream, sha256)
}

private fun checkHash(file: File, stream: FileInputStream, expected: String) {
    val digest = newDigest()
    val part = ByteArray(PART)
    while (true) {
        val got = stream.read(part)
        if (got < 0) break
        digest.update(part, 0, got)
    }
    val found = hex(digest.digest())
    if (found != expected)
        fail(Problem.WRONG_HASH, "$file has the SHA-256 $found; expected $expected: copy the package again")
}

/** Writes a temporary file, flushes it to disk and renames it: an existing file is replaced completely or not at all.
 * */
internal fun writeFile(file: File, write: (OutputStream) -> Unit) {
    val beside = File(file.path + ".partial")
    try {
        FileOutputStream(beside).use { stream ->
            write(stream)
            stream.fd.sync()
        }
        if (!beside.renameTo(file)) throw IOException("it cannot be renamed from ${beside.name}")
    } catch (error: IOException) {
        beside.delete()
        throw DeviceException(Problem.STORAGE, "$file cannot be written: ${why(error)}", error)
    } catch (error: Throwable) {
        beside.delete()
        throw error
    }
}

internal fun OutputStream.put(bytes: ByteBuffer) {
    val left = bytes.duplicate()
    val part = ByteArray(minOf(PART, left.remaining()))
    while (left.hasRemaining()) {
        val count = minOf(part.size, left.remaining())
        left.get(part, 0, count)
        write(part, 0, count)
    }
}

internal fun littleEndian(number: Long): ByteArray =
    ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(number).array()
