package dev.adabet.onnx

import ai.onnxruntime.OnnxTensor
import java.io.File
import java.nio.ByteBuffer

/** How to train; null means the package's value. */
public class FitOptions {
    /** The choice of layers; null for the package's first. */
    public var entry: String? = null
    public var learningRate: Double? = null
    public var batchSize: Int? = null

    /** Total number of epochs, including those in [progress]. */
    public var epochs: Int? = null

    /** Random seed of the order of samples: 0 to 2^32 - 1. */
    public var seed: Long? = null

    /** A file written after each epoch, from which training resumes if it exists. */
    public var progress: File? = null

    /** Evaluated after each epoch. */
    public var heldOut: Samples? = null
}

/** An event of training. */
public sealed class FitEvent {
    /** The frozen part was computed for one more sample; this is done once, before the first step. */
    public class Prepared internal constructor(public val samples: Int, public val of: Int) : FitEvent()

    public class Step internal constructor(
        /** Counted from 1. */
        public val epoch: Int,
        public val epochs: Int,
        /** Counted from 1, over all epochs. */
        public val step: Long,
        /** Steps per epoch. */
        public val steps: Int,
        public val loss: Float,
    ) : FitEvent()

    /** An epoch is complete and progress is stored. */
    public class Epoch internal constructor(
        public val epoch: Int,
        public val epochs: Int,
        public val step: Long,
        /** Mean over the epoch's samples. */
        public val loss: Double,
        /** Null if there are no held-out samples. */
        public val heldOut: Evaluation?,
        learned: () -> PersonalModel,
    ) : FitEvent() {
        /** The model so far: a copy, made on the first request. Request it before training continues. */
        public val model: PersonalModel by lazy(learned)
    }

    /** The last event. */
    public class Done internal constructor(public val model: PersonalModel) : FitEvent()
}

/**
 * Training of an entry, in the documented order, with two sets of values that alternate as input and output. Steps do
 * not allocate memory.
 */
internal class Trainer(private val device: DevicePackage, private val samples: Samples, options: FitOptions) {
    private val description = device.description
    private val entry = options.entry?.let { description.entry(it) } ?: description.entries[0]
    private val rate = options.learningRate ?: description.training.learningRate
    private val batchSize = options.batchSize ?: description.training.batchSize
    private val epochs = options.epochs ?: description.training.epochs
    private val seed = options.seed ?: description.training.seed
    private val progress = options.progress
    private val heldOut = options.heldOut
    private val checked: CheckedSamples
    private val steps: Int

    init {
        if (batchSize !in 1..MOST_SHUFFLED || epochs < 1)
            fail(Problem.USAGE, "a batch size of $batchSize and $epochs epochs; expected at least 1 of both")
        if (!rate.toFloat().isFinite() || rate <= 0)
            fail(Problem.USAGE, "a learning rate of $rate; expected a number above 0")
        if (seed !in 0..0xFFFFFFFFL) fail(Problem.USAGE, "a seed of $seed; expected 0 to 4294967295")
        checked = description.checked(samples, true, "data")
        if (checked.count > MOST_SHUFFLED)
            fail(Problem.USAGE, "there are ${checked.count} samples; at most $MOST_SHUFFLED can be shuffled")
        steps = (checked.count + batchSize - 1) / batchSize
    }

    /** Trains on demand: each request for the next event runs a step; closing [closing] ends it. */
    fun events(closing: Closing): Sequence<FitEvent> = sequence {
        val memory = guarded("the trained values") { List(2) { direct(entry.stateBytes) } }
        val start = begin(memory[0])
        val features = closing.later(Features(device, entry, checked))
        for (sample in 0 until features.count) {
            features.compute(sample)
            yield(FitEvent.Prepared(sample + 1, features.count))
        }
        features.close()
        val loop = Loop(closing, memory, features.rows() + checked.labels!!)
        var step = start.step
        for (epoch in start.epoch.toInt() + 1..epochs) {
            val order = shuffled(checked.count, seed, epoch)
            var sum = 0.0
            for (first in order.indices step batchSize) {
                val rows = order.copyOfRange(first, minOf(first + batchSize, order.size))
                val loss = loop.step(rows, ++step)
                sum += loss.toDouble() * rows.size
                yield(FitEvent.Step(epoch, epochs, step, steps, loss))
            }
            yield(loop.endOfEpoch(epoch, step, sum / checked.count))
        }
        yield(FitEvent.Done(loop.model()))
    }

    /** Loads the initial values, or those of the progress file if it exists; returns the position in training. */
    private fun begin(values: ByteBuffer): Place {
        val initial = device.file(entry.files.state)
        copy(initial, 0, values, 0, entry.selectedBytes)
        if (progress == null || !progress.exists()) return Place(0, 0, seed, batchSize.toLong())
        val place = restore(device, entry, progress, values)
        val same = place.seed == seed && place.batchSize == batchSize.toLong()
        if (!same || place.epoch !in 1..Int.MAX_VALUE.toLong() || place.step != place.epoch * steps)
            fail(
                Problem.WRONG_MODEL,
                "$progress belongs to another training run: seed ${place.seed}, batch size ${place.batchSize}, " +
                    "${place.step} steps after epoch ${place.epoch}; expected seed $seed, batch size $batchSize, " +
                    "$steps steps per epoch. Remove it to start again",
            )
        return place
    }

    /** The memory for steps, allocated once. */
    private inner class Loop(closing: Closing, memory: List<ByteBuffer>, private val rows: List<Rows>) {
        private val runtime = device.runtime
        private val names = entry.names
        private val ports = entry.boundary.map { it.port } + Port(
            names.labels,
            description.labels.port.dtype,
            description.labels.port.shape,
        )
        private val values = memory.map { closing.later(Values(runtime, entry.tensors, it)) }
        private val batch = closing.later(Batch(runtime, ports, minOf(batchSize, checked.count)))
        private val rateNow = closing.later(Scalar(runtime, DType.FLOAT32)).also { it.float = rate.toFloat() }
        private val stepNow = closing.later(Scalar(runtime, DType.INT64))
        private val loss = closing.later(Scalar(runtime, DType.FLOAT32))
        private val evaluator = heldOut?.let { closing.later(Evaluator(device, entry, it, batchSize)) }
        private val graph = closing.later(
            Graph.open(
                device,
                entry.files.step,
                ports.map(::slot) + floats(names.learningRate) + Slot(names.step, DType.INT64) +
                    entry.tensors.map { floats(it.input) },
                listOf(floats(names.loss), slot(entry.logits)) + entry.tensors.map { floats(it.output) },
            ),
        )
        private val scalars = mapOf(names.learningRate to rateNow.tensor, names.step to stepNow.tensor)
        private val results = values.map { it.outputs + (names.loss to loss.tensor) }

        /** The inputs for each number of samples with either set; there are at most two numbers. */
        private val feeds = HashMap<Int, List<Map<String, OnnxTensor>>>()

        /** The set that holds the current values. */
        private var now = 0

        /** The last step. */
        private var done = 0L

        fun step(samples: IntArray, number: Long): Float {
            stepNow.long = number
            done = number
            val fed = batch.fill(rows, samples)
            val sets = feeds.getOrPut(samples.size) { values.map { graph.taken(fed + scalars + it.inputs) } }
            graph.run(sets[now], results[1 - now])
            now = 1 - now
            val found = loss.float
            if (found.isFinite()) return found
            fail(
                Problem.NOT_FINITE,
                "the loss is $found in step $number: use a learning rate below $rate, and check the data",
            )
        }

        fun endOfEpoch(epoch: Int, step: Long, loss: Double): FitEvent {
            val bytes = values[now].bytes
            notFinite(entry.tensors, bytes)?.let {
                fail(
                    Problem.NOT_FINITE,
                    "'${shown(it)}' is not finite after epoch $epoch: use a learning rate below $rate",
                )
            }
            if (progress != null)
                save(device, entry, bytes, Place(epoch.toLong(), step, seed, batchSize.toLong()), progress)
            return FitEvent.Epoch(epoch, epochs, step, loss, evaluator?.evaluate(values[now])) {
                if (done != step)
                    fail(Problem.USAGE, "the model of epoch $epoch is gone: request it before training continues")
                model()
            }
        }

        fun model(): PersonalModel {
            val made = guarded("the personal model") { room(entry.selectedBytes.toLong()) }
            copy(values[now].bytes, 0, made, 0, entry.selectedBytes)
            return PersonalModel(device, entry, made)
        }
    }
}
