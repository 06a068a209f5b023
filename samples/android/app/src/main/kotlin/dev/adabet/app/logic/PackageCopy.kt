package dev.adabet.app.logic

import java.io.File
import java.io.IOException
import java.io.InputStream

/**
 * A package out of an app's assets: ONNX Runtime reads files, and assets are none. It is copied again where the app
 * brought another one, and is there as a whole or not at all.
 *
 * @param names of the files among the assets
 * @param open one of them
 * @return the folder
 * @throws IOException there is not enough space, or no package
 */
fun copiedPackage(names: List<String>, open: (String) -> InputStream, to: File): File {
    if (DESCRIPTION !in names) throw IOException("The app has no package: put it into the assets.")
    val description = open(DESCRIPTION).use { it.readBytes() }
    val there = File(to, DESCRIPTION)
    if (there.isFile && there.readBytes().contentEquals(description)) return to
    val beside = File(to.path + ".partial")
    beside.deleteRecursively()
    if (!beside.mkdirs()) throw IOException("The folder $beside cannot be made.")
    for (name in names) open(name).use { from -> File(beside, name).outputStream().use { from.copyTo(it) } }
    to.deleteRecursively()
    if (!beside.renameTo(to)) throw IOException("The folder $beside cannot be renamed.")
    return to
}

private const val DESCRIPTION = "device.json"
