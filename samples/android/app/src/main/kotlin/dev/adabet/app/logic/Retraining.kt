package dev.adabet.app.logic

import dev.adabet.onnx.DeviceException
import dev.adabet.onnx.DevicePackage
import dev.adabet.onnx.FitEvent
import dev.adabet.onnx.FitOptions
import dev.adabet.onnx.PersonalModel
import dev.adabet.onnx.Problem
import dev.adabet.onnx.Samples
import dev.adabet.onnx.scores
import dev.adabet.onnx.training
import java.io.File
import kotlinx.coroutines.channels.ProducerScope
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.flow.onStart

/** The displayed state of a training. */
sealed interface Status {
    data object Idle : Status

    data class Scoring(val done: Int, val of: Int) : Status

    data class Preparing(val done: Int, val of: Int) : Status

    data class Training(val epoch: Int, val epochs: Int, val loss: Float, val accuracy: Double?) : Status

    data class Waiting(val reason: Hindrance) : Status

    data class Done(val entry: String, val accuracy: Double?) : Status

    data class Failed(val message: String) : Status
}

/** Scores, chooses an entry, trains, and writes the delta; when called again, it resumes. */
class Retraining(private val device: DevicePackage, private val folder: File) {
    private val progress = File(folder, "progress.safetensors")

    /** The entry and package chosen for the current pictures. */
    private val choice = File(folder, "choice")
    val delta: File = File(folder, "delta.safetensors")

    /** The last trained model, or the package's initial one, also if the app now contains another model. */
    fun model(): PersonalModel {
        if (!delta.isFile) return device.initial(device.description.entries[0])
        try {
            return device.load(delta)
        } catch (error: DeviceException) {
            if (error.problem != Problem.WRONG_MODEL) throw error
            return device.initial(device.description.entries[0])
        }
    }

    /** Start again, since other pictures are another training. */
    fun forget() {
        progress.delete()
        choice.delete()
    }

    /** @param memory bytes available for training */
    fun run(pictures: LabelledPictures, memory: Long, conditions: StateFlow<Conditions>): Flow<Status> = channelFlow {
        folder.mkdirs()
        val samples = pictures.training()
        val entry = chosen(samples, memory) { done, of -> trySend(Status.Scoring(done, of)) }
        val options = FitOptions().also {
            it.entry = entry
            it.progress = progress
            it.heldOut = if (pictures.count >= LEAST_HELD_OUT) pictures.heldOut() else null
        }
        var accuracy: Double? = null
        device.training(samples, options).onStart { wait(conditions) }.collect { event ->
            when (event) {
                is FitEvent.Prepared -> send(Status.Preparing(event.samples, event.of))
                is FitEvent.Step -> send(Status.Training(event.epoch, event.epochs, event.loss, accuracy))
                is FitEvent.Epoch -> accuracy = event.heldOut?.accuracy
                is FitEvent.Done -> {
                    event.model.saveDelta(delta)
                    forget()
                    send(Status.Done(entry, accuracy))
                }
            }
            if (event !is FitEvent.Done) wait(conditions)
        }
    }

    /** Training is paused while this suspends. */
    private suspend fun ProducerScope<Status>.wait(conditions: StateFlow<Conditions>) =
        conditions.good { reason -> if (reason != null) trySend(Status.Waiting(reason)) }

    /** Chooses by score, unless that was done before. */
    private suspend fun chosen(samples: Samples, memory: Long, told: (Int, Int) -> Unit): String {
        val entries = device.description.entries
        val before = if (choice.isFile) choice.readText() else ""
        entries.firstOrNull { before == "${device.sha256} ${it.name}" }?.let { return it.name }
        progress.delete()
        val scores = if (device.description.scoredLayers.isEmpty()) null else device.scores(samples, told = told)
        val name = if (scores == null) entries[0].name else device.choose(scores, memory).entry.name
        choice.writeText("${device.sha256} $name")
        return name
    }

    private companion object {
        const val LEAST_HELD_OUT = 20
    }
}
