package dev.adabet.app

import android.content.Context
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.graphics.Rect
import android.net.Uri
import androidx.core.content.FileProvider
import dev.adabet.onnx.PictureLayout
import java.io.File

/** The pixels of the centre of a picture, scaled to the model's size. */
internal fun pixels(context: Context, uri: Uri, layout: PictureLayout): IntArray {
    val source = ImageDecoder.createSource(context.contentResolver, uri)
    val bitmap = ImageDecoder.decodeBitmap(source) { decoder, info, _ ->
        val scale = maxOf(layout.width.toFloat() / info.size.width, layout.height.toFloat() / info.size.height)
        val width = maxOf(layout.width, Math.round(info.size.width * scale))
        val height = maxOf(layout.height, Math.round(info.size.height * scale))
        val left = (width - layout.width) / 2
        val top = (height - layout.height) / 2
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
        decoder.setTargetSize(width, height)
        decoder.crop = Rect(left, top, left + layout.width, top + layout.height)
    }
    val argb = IntArray(layout.width * layout.height)
    val plain = if (bitmap.config == Bitmap.Config.ARGB_8888) bitmap else bitmap.copy(Bitmap.Config.ARGB_8888, false)
    plain.getPixels(argb, 0, layout.width, 0, 0, layout.width, layout.height)
    return argb
}

/** Lets the user share the delta with another app. */
internal fun share(context: Context, delta: File) {
    val uri = FileProvider.getUriForFile(context, "${context.packageName}.files", delta)
    val send = Intent(Intent.ACTION_SEND)
        .setType("application/octet-stream")
        .putExtra(Intent.EXTRA_STREAM, uri)
        .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
    context.startActivity(Intent.createChooser(send, null).addFlags(Intent.FLAG_ACTIVITY_NEW_TASK))
}
