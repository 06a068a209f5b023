package dev.adabet.app

import android.app.Application
import dev.adabet.app.logic.Conditions
import dev.adabet.app.logic.LabelledPictures
import dev.adabet.app.logic.Retraining
import dev.adabet.app.logic.Status
import dev.adabet.app.logic.copiedPackage
import dev.adabet.app.logic.recognised
import dev.adabet.onnx.DevicePackage
import java.io.File
import kotlinx.coroutines.flow.MutableStateFlow

/** State shared by the screen and the service. */
class App : Application() {
    /** Copied from the assets and opened on first use. This takes a moment: do not call it on the main thread. */
    val device: DevicePackage by lazy {
        val names = assets.list(ASSETS)?.toList() ?: emptyList()
        DevicePackage.open(copiedPackage(names, { assets.open("$ASSETS/$it") }, File(filesDir, "device")))
    }
    val pictures: LabelledPictures by lazy { LabelledPictures(File(filesDir, "pictures"), device.description) }
    val retraining: Retraining by lazy { Retraining(device, File(filesDir, "deltas")) }

    val status = MutableStateFlow<Status>(Status.Idle)
    val conditions = MutableStateFlow(Conditions())

    /** The class of a picture, according to the last trained model. */
    fun recognise(argb: IntArray): Int = recognised(retraining.model(), device.description, argb, pictures.layout)

    private companion object {
        const val ASSETS = "device"
    }
}
