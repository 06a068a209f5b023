package dev.adabet.onnx

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.io.File
import java.nio.ByteBuffer

/** The processor for graphs with constant weights. Steps, whose weights are inputs, run on the CPU. */
public enum class Accelerator { CPU, XNNPACK, NNAPI }

/** An input or output of a graph. */
internal class Slot(val name: String, val dtype: DType)

internal fun slot(port: Port): Slot = Slot(port.name, port.dtype)

internal fun floats(name: String): Slot = Slot(name, DType.FLOAT32)

/** ONNX Runtime with the session options. */
internal class Runtime(private val threads: Int) {
    val environment: OrtEnvironment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL, "adabet")
    val version: String get() = environment.version

    /** @throws DeviceException it is too old for the package or for this library */
    fun check(oldest: String) {
        val needed = if (newEnough(oldest, OLDEST)) oldest else OLDEST
        if (!newEnough(version, needed))
            fail(
                Problem.RUNTIME,
                "this is ONNX Runtime ${shown(version, 40)}; the package needs ${shown(needed, 40)} or newer",
            )
    }

    fun session(file: File, on: Accelerator): OrtSession = OrtSession.SessionOptions().use { options ->
        options.setIntraOpNumThreads(threads)
        options.setInterOpNumThreads(1)
        options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL)
        options.setMemoryPatternOptimization(false) // otherwise one more block, as large as a whole run
        when (on) {
            Accelerator.CPU -> Unit
            Accelerator.XNNPACK -> options.addXnnpack(mapOf("intra_op_num_threads" to "$threads"))
            Accelerator.NNAPI -> options.addNnapi()
        }
        environment.createSession(file.path, options)
    }

    /** A tensor over the memory of [buffer]; [shape] includes the number of samples, if any. */
    fun tensor(buffer: ByteBuffer, shape: LongArray, dtype: DType): OnnxTensor =
        OnnxTensor.createTensor(environment, buffer, shape, dtype.java)

    private companion object {
        /** The first release whose Java API writes results to given memory. */
        const val OLDEST = "1.17"

        fun newEnough(version: String, needed: String): Boolean {
            val (found, least) = listOf(version, needed).map { text -> text.split('.').map { it.toIntOrNull() ?: 0 } }
            for (i in least.indices) {
                val part = found.getOrElse(i) { 0 }
                if (part != least[i]) return part > least[i]
            }
            return true
        }
    }
}

/** A session, checked against device.json. */
internal class Graph private constructor(private val what: String, private val session: OrtSession) : AutoCloseable {
    private val inputs: List<String> = session.inputNames.toList()

    private fun check(ins: List<Slot>, outs: List<Slot>) {
        val given = session.inputInfo
        for ((name, info) in given) {
            val slot = ins.firstOrNull { it.name == name }
                ?: fail(Problem.WRONG_FILE, "$what has an input '${shown(name)}' that device.json does not list")
            checkType(slot, (info.info as? TensorInfo)?.type?.name)
        }
        val made = session.outputInfo
        for (slot in outs) {
            val info = made[slot.name]
                ?: fail(Problem.WRONG_FILE, "$what has no output '${shown(slot.name)}', which device.json lists")
            checkType(slot, (info.info as? TensorInfo)?.type?.name)
        }
    }

    private fun checkType(slot: Slot, found: String?) {
        if (found != slot.dtype.java.name)
            fail(
                Problem.WRONG_SHAPE,
                "$what: '${shown(slot.name)}' has another data type (${found ?: "no tensor"}; expected " +
                    "${slot.dtype.label})",
            )
    }

    /** Those of the feeds that the graph has. */
    fun taken(feeds: Map<String, OnnxTensor>): Map<String, OnnxTensor> =
        inputs.associateWith { feeds[it] ?: fail(Problem.WRONG_FILE, "$what: no value for the input '${shown(it)}'") }

    /** Runs the graph; the outputs are written into [results]. */
    fun run(feeds: Map<String, OnnxTensor>, results: Map<String, OnnxTensor>) {
        try {
            session.run(feeds, emptySet(), results).close()
        } catch (error: OrtException) {
            throw ofRuntime(what, error)
        }
    }

    /** Runs the graph and copies its outputs, whatever their shapes. */
    fun <T> run(feeds: Map<String, OnnxTensor>, outputs: Set<String>, copied: (String, OnnxTensor) -> T): List<T> {
        try {
            return session.run(feeds, outputs).use { result ->
                outputs.map { copied(it, result.get(it).get() as OnnxTensor) }
            }
        } catch (error: OrtException) {
            throw ofRuntime(what, error)
        }
    }

    override fun close(): Unit = session.close()

    internal companion object {
        fun open(
            device: DevicePackage,
            file: String,
            ins: List<Slot>,
            outs: List<Slot>,
            on: Accelerator = Accelerator.CPU,
        ): Graph {
            val session = guarded(file) { device.runtime.session(File(device.folder, file), on) }
            try {
                return Graph(file, session).apply { check(ins, outs) }
            } catch (error: Throwable) {
                session.close()
                throw error
            }
        }
    }
}

/** Closes everything that was opened, also if something fails. */
internal class Closing : AutoCloseable {
    private val opened = ArrayList<AutoCloseable>()

    fun <T : AutoCloseable> later(resource: T): T = resource.also { opened.add(it) }

    override fun close() {
        for (resource in opened.asReversed()) resource.close()
        opened.clear()
    }
}
