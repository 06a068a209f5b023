package dev.adabet.onnx

/** A port with a row of numbers for each sample: an input, an output, or labels. */
public class Port internal constructor(
    public val name: String,
    public val dtype: DType,
    /** For one sample. */
    public val shape: List<Int>,
) {
    /** Number of elements of one sample. */
    public val elements: Long = shape.fold(1L) { size, extent -> times(size, extent.toLong()) }

    /** For one sample. */
    public val bytes: Long = times(elements, dtype.width.toLong())
}

/** An output of the model. Its [shape] is informational: the results have their own. */
public class OutputPort internal constructor(
    public val name: String,
    public val dtype: DType,
    /** Extents; `N` is the number of samples, `2*N` twice that. */
    public val shape: List<String>,
    /** `logits`, `probabilities` or null. */
    public val role: String?,
)

/** The labels. */
public class Labels internal constructor(
    public val port: Port,
    /** Number of classes; null if the loss has none. */
    public val classes: Long?,
    /** A label that is ignored. */
    public val ignore: Long?,
)

/** Conversion of raw numbers to the model's input: (x * scale - mean) / std, per channel. */
public class Preprocessing internal constructor(
    public val scale: Float,
    public val mean: List<Float>,
    public val std: List<Float>,
    /** The channel axis of the input; that of samples is 0. */
    public val channelAxis: Int?,
    public val bgr: Boolean,
)

/** Default training options. */
public class Defaults internal constructor(
    public val learningRate: Double,
    public val batchSize: Int,
    public val epochs: Int,
    public val seed: Long,
)

/** A choice of layers. */
public class Entry internal constructor(
    public val name: String,
    public val layers: List<String>,
    /** Number of trained values. */
    public val trained: Long,
    /** Size of the file that the personal model reads. */
    public val selectedBytes: Int,
    internal val files: EntryFiles,
    internal val boundary: List<Boundary>,
    internal val names: Names,
    internal val logits: Port,
    /** Axis of classes in one sample's logits; null if the loss has no classes. */
    internal val classAxis: Int?,
    internal val tensors: List<Tensor>,
    private val memory: List<Pair<Int, Long>>,
) {
    /** Parameters and statistics. */
    internal val kept: List<Tensor> = tensors.filter { it.kind != Kind.OPTIMIZER }

    /** Size of all tensors in one buffer. */
    internal val stateBytes: Long = maxOf(selectedBytes.toLong(), tensors.last().let { it.offset + it.bytes })

    /** Bytes that training needs at a batch size, according to the package. */
    public fun memoryAt(batch: Int): Long {
        memory.firstOrNull { it.first >= batch }?.let { return it.second }
        val (last, bytes) = memory.last()
        val whole = times(bytes / last, batch.toLong())
        val rest = (times(bytes % last, batch.toLong()) + last - 1) / last
        return if (whole > Long.MAX_VALUE - rest) Long.MAX_VALUE else whole + rest
    }

    override fun toString(): String = "Entry($name)"
}

/** Names of an entry's files. */
internal class EntryFiles(
    val frozen: String?,
    val step: String,
    val evaluation: String,
    val prediction: String,
    val state: String,
    val selected: String,
)

/** An input of training steps: an output of the frozen graph, or the model's [input] of that name, unchanged. */
internal class Boundary(val port: Port, val input: String?)

internal class Names(
    val labels: String,
    val learningRate: String,
    val step: String,
    val loss: String,
    val logits: String,
)

internal enum class Kind { PARAMETER, STATISTIC, OPTIMIZER }

internal class Tensor(
    val name: String,
    val kind: Kind,
    val input: String,
    val output: String,
    val shape: List<Int>,
    val offset: Long,
    val bytes: Long,
)

/** How layers are scored. */
internal class Scoring(
    val file: String,
    val samples: Int,
    val points: Int,
    val subsets: Int,
    val seed: Long,
    val layers: List<ScoredLayer>,
)

internal class ScoredLayer(val name: String, val output: String, val numbers: Int, val size: Double)

internal class FileRecord(val name: String, val bytes: Long, val sha256: String)

/** The checked content of device.json. */
public class Description internal constructor(
    public val model: String,
    public val modelSha256: String,
    public val oldestOnnxRuntime: String,
    internal val files: List<FileRecord>,
    /** Of the model, in its order. */
    public val inputs: List<Port>,
    /** Of the model, in its order. */
    public val outputs: List<OutputPort>,
    public val labels: Labels,
    /** Null if classes have no names. */
    public val classNames: List<String>?,
    /** Null if the package defines none: see [feed]. */
    public val preprocessing: Preprocessing?,
    public val training: Defaults,
    internal val forwardBatch: Int?,
    internal val scoring: Scoring?,
    /** The menu: at least one choice of layers. */
    public val entries: List<Entry>,
) {
    /** Names of the layers that have a score; empty if the package cannot score. */
    public val scoredLayers: List<String> = scoring?.layers?.map { it.name } ?: emptyList()

    /** @throws DeviceException there is no entry of that name */
    public fun entry(name: String): Entry = entries.firstOrNull { it.name == name } ?: fail(
        Problem.USAGE,
        "there is no entry '${shown(name)}'; the package has ${entries.joinToString { "'${shown(it.name)}'" }}",
    )
}
