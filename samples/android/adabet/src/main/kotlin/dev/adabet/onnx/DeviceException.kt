package dev.adabet.onnx

import ai.onnxruntime.OrtException
import java.io.IOException

/** What went wrong: a program acts on this, a person on the message. */
public enum class Problem(
    /** Such as "wrong hash". */
    public val label: String,
) {
    /** An argument cannot be meant. */
    USAGE("usage"),

    /** A file is missing, cut short, or not what it should be. */
    WRONG_FILE("wrong file"),

    /** A file's bytes do not have the SHA-256 that is written for them. */
    WRONG_HASH("wrong hash"),

    /** Data have another size or type than the model takes. */
    WRONG_SHAPE("wrong shape"),

    /** A label is out of range. */
    WRONG_LABEL("wrong label"),

    /** A loss, an activation or a number that was read is NaN or infinite. */
    NOT_FINITE("not finite"),

    /** There is no memory left, or less is allowed than is needed. */
    NO_MEMORY("no memory"),

    /** A file cannot be written: no space or no permission. */
    STORAGE("storage"),

    /** A delta or progress of another model, package, entry or job. */
    WRONG_MODEL("wrong model"),

    /** Too few samples. */
    TOO_FEW("too few"),

    /** The caller said to stop. */
    CANCELLED("cancelled"),

    /** ONNX Runtime is too old, or reports an error. */
    RUNTIME("runtime"),
}

/**
 * The one class of errors that this library throws. The message says what was wrong, where, what was expected and
 * found.
 */
public class DeviceException(
    public val problem: Problem,
    message: String,
    cause: Throwable? = null,
) : RuntimeException(message, cause)

internal fun fail(problem: Problem, message: String): Nothing = throw DeviceException(problem, message)

/** Names of files and tensors are anybody's: cut, and in one line all the same. */
internal fun shown(text: String, most: Int = 80): String =
    text.take(most).map { if (it.isISOControl()) ' ' else it }.joinToString("")

private val MEMORY = Regex(
    "bad_alloc|bad allocation|out of memory|failed to allocate|vector::_M_default_append",
    RegexOption.IGNORE_CASE,
)

/** Does something with [what]; an error of the machine or of ONNX Runtime becomes one of ours. */
internal inline fun <T> guarded(what: String, work: () -> T): T {
    try {
        return work()
    } catch (error: OutOfMemoryError) {
        throw DeviceException(
            Problem.NO_MEMORY,
            "there is not enough memory for $what: take a smaller batch, or fewer samples",
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
        "$what: ONNX Runtime says: $said",
        error,
    )
}

/** What a file system says: "x.bin (No such file or directory)" is cut to what is in parentheses. */
internal fun why(error: IOException): String {
    val said = error.message ?: error.javaClass.simpleName
    return Regex("\\(([^()]*)\\)$").find(said)?.groupValues?.get(1) ?: said
}
