package dev.adabet.onnx

import java.io.File
import java.nio.ByteBuffer
import java.util.concurrent.locks.ReentrantReadWriteLock
import kotlin.concurrent.read
import kotlin.concurrent.write

/**
 * Called after each event, by the thread that called [DevicePackage.fit]: training is paused until it returns.
 */
public fun interface FitWatch {
    /** @return false to end training */
    public fun told(event: FitEvent): Boolean
}

/**
 * An open device package: score, choose, fit, predict and save. All calls block; for coroutines, use
 * [scores], [training] and [predictions]. The format is docs/device-package.md.
 *
 * Several threads may use a package at the same time; it is closed when none uses it any longer.
 */
public class DevicePackage private constructor(
    internal val folder: File,
    /** SHA-256 of device.json. */
    public val sha256: String,
    public val description: Description,
    internal val runtime: Runtime,
    internal val frozenOn: Accelerator,
) : AutoCloseable {
    private val lock = ReentrantReadWriteLock()
    private var closed = false
    private val predictors = HashMap<String, Graph>()

    /** The version of ONNX Runtime. */
    public val runtimeVersion: String get() = runtime.version

    /**
     * Computes b1_hat of each layer by forward passes of single samples, without labels.
     *
     * @throws DeviceException there are too few samples, an activation is not finite, or other errors
     */
    @JvmOverloads
    public fun score(samples: Samples, watch: ScoreWatch = ScoreWatch { _, _ -> true }): Scores =
        open { scored(this, samples, watch) }

    /**
     * The entry with the highest sum of scores among those that need at most this memory at this batch size.
     *
     * @param memory bytes; null for no limit
     * @param batchSize null for the package's own
     */
    @JvmOverloads
    public fun choose(scores: Scores, memory: Long? = null, batchSize: Int? = null): Choice =
        chosen(description.entries, scores, batchSize ?: description.training.batchSize, memory)

    /**
     * Trains. Each [FitEvent.Epoch] provides the model so far, which remains valid if training ends with an error.
     *
     * @throws DeviceException the data does not fit; the loss is not finite; [watch] returned false; or other errors
     */
    @JvmOverloads
    public fun fit(
        samples: Samples,
        options: FitOptions = FitOptions(),
        watch: FitWatch = FitWatch { true },
    ): PersonalModel {
        var step = 0L
        var made: PersonalModel? = null
        Closing().use { closing ->
            for (event in events(samples, options, closing)) {
                if (event is FitEvent.Step) step = event.step
                if (event is FitEvent.Done) made = event.model
                if (!watch.told(event) && event !is FitEvent.Done)
                    fail(Problem.CANCELLED, "training was stopped after step $step")
            }
        }
        return made!!
    }

    /** Trains on demand: each request for the next event runs a step. */
    internal fun events(samples: Samples, options: FitOptions, closing: Closing): Sequence<FitEvent> =
        open { Trainer(this, samples, options) }.events(closing)

    /** An entry with the package's initial values. */
    public fun initial(entry: Entry): PersonalModel = open { PersonalModel(this, entry, file(entry.files.state)) }

    /** Loads a delta, or a progress file of this package. */
    public fun load(file: File): PersonalModel = load(this, file)

    override fun close() {
        lock.write {
            closed = true
            for (graph in predictors.values) graph.close()
            predictors.clear()
        }
    }

    /** Runs an action unless the package is closed. */
    internal inline fun <T> open(work: () -> T): T = lock.read {
        if (closed) fail(Problem.USAGE, "the package is closed")
        work()
    }

    /** The prediction graph, kept open until the package is closed. */
    internal fun predictor(entry: Entry): Graph = synchronized(predictors) {
        predictors.getOrPut(entry.files.prediction) {
            val ins = description.inputs.map(::slot) + entry.kept.map { floats(it.input) }
            Graph.open(this, entry.files.prediction, ins, description.outputs.map { Slot(it.name, it.dtype) })
        }
    }

    /** A file of the package, checked again. */
    internal fun file(name: String): ByteBuffer {
        val record = description.files.first { it.name == name }
        val bytes = readFile(File(folder, name), record.bytes)
        val same = bytes.capacity().toLong() == record.bytes && sha256Of(bytes) == record.sha256
        return if (same) bytes else fail(
            Problem.WRONG_HASH,
            "${File(folder, name)} was changed after the package was opened",
        )
    }

    public companion object {
        /**
         * Opens a package: every file is checked against its size and SHA-256.
         *
         * @param folder a folder of the file system: an app must copy its assets first
         * @param threads per operator
         * @param frozenOn the processor for the frozen graph, whose weights are constant
         * @throws DeviceException it is not a package, or is damaged, or ONNX Runtime is too old
         */
        @JvmStatic
        @JvmOverloads
        public fun open(folder: File, threads: Int = 1, frozenOn: Accelerator = Accelerator.CPU): DevicePackage {
            val bytes = readFile(File(folder, "device.json"), Json.MOST_BYTES.toLong())
            val description = described(Json.parse(bytes, "device.json"))
            val anew = description.entries.map { it.files.selected }.toSet() // rewritten for personal models
            for (record in description.files)
                checkFile(File(folder, record.name), record.bytes, record.sha256.takeUnless { record.name in anew })
            val runtime = Runtime(maxOf(1, threads)).apply { check(description.oldestOnnxRuntime) }
            return DevicePackage(folder, sha256Of(bytes), description, runtime, frozenOn)
        }
    }
}
