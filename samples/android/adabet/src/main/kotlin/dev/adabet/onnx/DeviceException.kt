package dev.adabet.onnx

import ai.onnxruntime.OrtException
import java.io.IOException

/** Error codes, for programs; the message is for users. */
public enum class Problem(
    /** Such as "wrong hash". */
    public val label: String,
) {
    /** An argument is invalid. */
    USAGE("usage"),

    /** A file is missing, truncated or invalid. */
    WRONG_FILE("wrong file"),

    /** A file does not have the recorded SHA-256. */
    WRONG_HASH("wrong hash"),

    /** The size or type of data does not match the model. */
    WRONG_SHAPE("wrong shape"),

    /** A label is out of range. */
    WRONG_LABEL("wrong label"),

    /** A loss, an activation or a number that was read is NaN or infinite. */
    NOT_FINITE("not finite"),

    /** Out of memory, or the memory limit is too small. */
    NO_MEMORY("no memory"),

    /** A file cannot be written: no space or no permission. */
    STORAGE("storage"),

    /** A delta or progress file belongs to another model, package, entry or training. */
    WRONG_MODEL("wrong model"),

    /** Too few samples. */
    TOO_FEW("too few"),

    /** Cancelled by the caller. */
    CANCELLED("cancelled"),

    /** ONNX Runtime is too old, or reports an error. */
    RUNTIME("runtime"),
}

/**
 * The only error type that this library throws. The message states the problem, where it is, what was expected and
 * found.
 */
public class DeviceException(
    public val problem: Problem,
    message: String,
    cause: Throwable? = null,
) : RuntimeException(message, cause)

internal fun fail(problem: Problem, message: String): Nothing = throw DeviceException(problem, message)

/** Names of files and tensors are untrusted: they are shortened and kept on one line. */
internal fun shown(text: String, most: Int = 80): String =
    text.take(most).map { if (it.isISOControl()) ' ' else it }.joinToString("")

private val MEMORY = Regex(
    "bad_alloc|bad allocation|out of memory|failed to allocate|vector::_M_default_append",
    RegexOption.IGNORE_CASE,
)

/** Runs an action; an error of the system or of ONNX Runtime becomes a DeviceException about [what]. */
internal inline fun <T> guarded(what: String, work: () -> T): T {
    try {
        return work()
    } catch (error: OutOfMemoryError) {
        throw DeviceException(
            Problem.NO_MEMORY,
            "there is not enough memory for $what: use a smaller batch, or fewer samples",
            error,
        )
    } catch (error: OrtException) {
        throw ofRuntime(what, error)
    }
}

internal fun ofRuntime(what: String, error: OrtException): DeviceException {
    val said = shown(error.message ?: "an error without a message", 400)
    return DeviceException(
        if (MEMORY.containsMatchIn(said)) Problem.NO_MEMORY else Problem.RUNTIME,
        "$what: ONNX Runtime reports: $said",
        error,
    )
}

/** The reason in a file system error: "x.bin (No such file or directory)" is reduced to the text in parentheses. */
internal fun why(error: IOException): String {
    val said = error.message ?: error.javaClass.simpleName
    return Regex("\\(([^()]*)\\)$").find(said)?.groupValues?.get(1) ?: said
}
