package android.graphics

import android.content.ContentResolver
import android.net.Uri

class Rect(left: Int, top: Int, right: Int, bottom: Int)

class Size {
    val width: Int = TODO()
    val height: Int = TODO()
}

class Bitmap {
    enum class Config { ARGB_8888 }

    val config: Config? = TODO()

    fun copy(config: Config, mutable: Boolean): Bitmap = TODO()

    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int): Unit = TODO()
}

class ImageDecoder {
    var allocator: Int = TODO()
    var crop: Rect? = TODO()

    fun setTargetSize(width: Int, height: Int): Unit = TODO()

    class Source

    class ImageInfo {
        val size: Size = TODO()
    }

    fun interface OnHeaderDecodedListener {
        fun onHeaderDecoded(decoder: ImageDecoder, info: ImageInfo, source: Source)
    }

    companion object {
        const val ALLOCATOR_SOFTWARE = 1

        fun createSource(resolver: ContentResolver, uri: Uri): Source = TODO()

        fun decodeBitmap(source: Source, listener: OnHeaderDecodedListener): Bitmap = TODO()
    }
}
