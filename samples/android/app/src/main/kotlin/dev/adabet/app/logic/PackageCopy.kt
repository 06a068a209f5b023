package dev.adabet.app.logic

import java.io.File
import java.io.IOException
import java.io.InputStream

/**
 * Copies a package from an app's assets, since ONNX Runtime reads only files. It is copied again when the app contains
 * another one, and either completely or not at all.
 *
 * @param names file names in the assets
 * @param open opens one of them
 * @return the folder
 * @throws IOException there is not enough space, or there is no package
 */
fun copiedPackage(names: List<String>, open: (String) -> InputStream, to: File): File {
    if (DESCRIPTION !in names) throw IOException("The app contains no package: put one into the assets.")
    val description = open(DESCRIPTION).use { it.readBytes() }
    val there = File(to, DESCRIPTION)
    if (there.isFile && there.readBytes().contentEquals(description)) return to
    val beside = File(to.path + ".partial")
    beside.deleteRecursively()
    if (!beside.mkdirs()) throw IOException("The folder $beside cannot be created.")
    for (name in names) open(name).use { from -> File(beside, name).outputStream().use { from.copyTo(it) } }
    to.deleteRecursively()
    if (!beside.renameTo(to)) throw IOException("The folder $beside cannot be renamed.")
    return to
}

private const val DESCRIPTION = "device.json"
