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

/** What the screen and the service share. */
class App : Application() {
    /** Copied out of the assets and opened when it is first used, which takes a moment: not on the main thread. */
    val device: DevicePackage by lazy {
        val names = assets.list(ASSETS)?.toList() ?: emptyList()
        DevicePackage.open(copiedPackage(names, { assets.open("$ASSETS/$it") }, File(filesDir, "device")))
    }
    val pictures: LabelledPictures by lazy { LabelledPictures(File(filesDir, "pictures"), device.description) }
    val retraining: Retraining by lazy { Retraining(device, File(filesDir, "deltas")) }

    val status = MutableStateFlow<Status>(Status.Idle)
    val conditions = MutableStateFlow(Conditions())

    /** The class of a picture, as the model was last trained. */
    fun recognise(argb: IntArray): Int = recognised(retraining.model(), device.description, argb, pictures.layout)

    private companion object {
        const val ASSETS = "device"
    }
}
