/* Checks of an app's use of the library, on the JVM: MENU FOLDER RAW-IMAGES LABELS. One line per passed check. */

import dev.adabet.app.logic.Conditions
import dev.adabet.app.logic.Hindrance
import dev.adabet.app.logic.LabelledPictures
import dev.adabet.app.logic.Retraining
import dev.adabet.app.logic.Status
import dev.adabet.app.logic.copiedPackage
import dev.adabet.app.logic.recognised
import dev.adabet.onnx.DeviceException
import dev.adabet.onnx.DevicePackage
import dev.adabet.onnx.FitEvent
import dev.adabet.onnx.FitOptions
import dev.adabet.onnx.PersonalModel
import dev.adabet.onnx.PictureLayout
import dev.adabet.onnx.Samples
import dev.adabet.onnx.training
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.concurrent.atomic.AtomicInteger
import kotlin.coroutines.CoroutineContext
import kotlin.system.exitProcess
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.last
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking

fun main(arguments: Array<String>) {
    val (menu, folder, images, labels) = arguments.map(::File)
    val pixels = images.readBytes()
    val classes = ByteBuffer.wrap(labels.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asLongBuffer()
    val label = LongArray(classes.capacity()) { classes.get(it) }
    copying(menu, folder)
    DevicePackage.open(menu).use { device ->
        val side = PictureLayout.of(device.description, device.description.inputs[0])
        val size = side.width * side.height
        val pictures = label.indices.map { i -> IntArray(size) { k -> grey(pixels[i * size + k].toInt() and 255) } }
        runBlocking {
            val data = samples(device, pictures, label)
            flows(device, data, folder)
            app(device, pictures, label, folder)
            page(device, data, folder)
        }
    }
    exitProcess(0)
}

private fun grey(value: Int): Int = -0x1000000 or (value shl 16) or (value shl 8) or value

private fun holds(what: String, found: Boolean) {
    check(found) { what }
    println(what)
}

private fun copying(menu: File, folder: File) {
    val names = menu.list()!!.toList()
    val to = File(folder, "copied")
    var opened = 0
    val copy = { listed: List<String> -> copiedPackage(
        listed,
        { name -> File(menu, name).inputStream().also { opened++ } },
        to,
    ) }
    copy(names)
    holds("a package is copied", to.list()!!.toSet() == names.toSet() && opened > names.size)
    opened = 0
    copy(names)
    holds("but once", opened == 1)
    File(to, "device.json").appendText(" ")
    copy(names)
    holds(
        "and again where it is another one",
        File(to, "device.json").readBytes().contentEquals(File(menu, "device.json").readBytes()),
    )
    val missing = try { copy(emptyList()) } catch (error: IOException) { null }
    holds("no package is an error", missing == null)
}

private fun bytes(model: PersonalModel, folder: File): List<Byte> =
    File(folder, "bytes").let { file ->
        model.saveDelta(file)
        file.readBytes().toList().also { file.delete() }
    }

private suspend fun flows(device: DevicePackage, data: Samples, folder: File) {
    val options = FitOptions().also {
        it.epochs = 3
        it.batchSize = 16
        it.entry = "head"
    }
    val whole = device.training(data, options).toList()
    val expected = bytes((whole.last() as FitEvent.Done).model, folder)
    val steps = whole.filterIsInstance<FitEvent.Step>()
    holds("all steps are told in order", steps.map { it.step } == (1L..3L * steps[0].steps).toList())
    holds("all samples are prepared", whole.count { it is FitEvent.Prepared } == data.labels!!.capacity() / 8)
    holds("coroutines and threads do the same", bytes(device.fit(data, options), folder) == expected)

    runBlocking {
        val pause = CompletableDeferred<Unit>()
        val counting = Counting()
        var told = 0
        var made: PersonalModel? = null
        val training = launch {
            device.training(data, options, counting).collect { event ->
                if (event is FitEvent.Done) made = event.model
                if (event is FitEvent.Step && ++told == 7) pause.await()
            }
        }
        while (told < 7) delay(5)
        val before = counting.count.get()
        delay(100)
        holds("nothing is computed in a pause", before > 7 && counting.count.get() == before && made == null)
        pause.complete(Unit)
        training.join()
        holds("after a pause it goes on to the same end", bytes(made!!, folder) == expected)
    }

    val models = ArrayList<PersonalModel>()
    val told = device.training(data, options).onEach { if (it is FitEvent.Epoch && it.epoch == 1) models.add(it.model) }
    val epochs = told.toList().filterIsInstance<FitEvent.Epoch>()
    options.epochs = 1
    val one = device.fit(data, options)
    holds("what an epoch had learned is kept", bytes(epochs[0].model, folder) == bytes(one, folder))
    options.epochs = 3
    holds("and is the one that was asked for", epochs[0].model === models[0])
    val late = try { epochs[1].model } catch (error: DeviceException) { null }
    holds("asked for too late it is gone", late == null)

    options.progress = File(folder, "cancelled.progress")
    device.training(data, options).takeWhile { it !is FitEvent.Step || it.step < steps[0].steps + 3 }.collect()
    holds("cancelled, it keeps complete epochs", options.progress!!.isFile)
    val again = device.training(data, options).toList()
    holds("and begins after them", again.filterIsInstance<FitEvent.Step>().first().step == steps[0].steps + 1L)
    holds("and comes to the same end", bytes((again.last() as FitEvent.Done).model, folder) == expected)
}

/** Counts its calls. */
private class Counting : CoroutineDispatcher() {
    val count = AtomicInteger()

    override fun dispatch(context: CoroutineContext, block: Runnable) {
        count.incrementAndGet()
        Dispatchers.Default.dispatch(context, block)
    }
}

private suspend fun app(device: DevicePackage, argb: List<IntArray>, label: LongArray, folder: File) {
    val store = File(folder, "store")
    val first = LabelledPictures(store, device.description)
    for (i in argb.indices) first.add(argb[i], label[i].toInt())
    File(store, "pictures").appendText("half a picture")
    val pictures = LabelledPictures(store, device.description)
    holds("pictures outlive the app", pictures.count == argb.size)
    pictures.add(argb[0], label[0].toInt())
    holds(
        "and half a one is written over",
        pictures.count == argb.size + 1 && pictures.perClass().values.sum() == argb.size + 1,
    )
    val all = samples(device, argb + argb.take(1), label + label[0])
    val name = device.description.inputs[0].name
    val size = device.description.inputs[0].bytes.toInt()
    val held = pictures.heldOut()
    holds(
        "every fifth is held out",
        (0 until held.labels!!.capacity() / 8).all { part(held, name, it, size) == part(all, name, 5 * it + 4, size) },
    )
    holds(
        "the others are trained with",
        pictures.training().labels!!.capacity() + held.labels!!.capacity() == 8 * (argb.size + 1),
    )

    val conditions = MutableStateFlow(Conditions(heat = 3))
    holds(
        "a low battery matters without a charger",
        Conditions(battery = 20, charging = false).hindrance == Hindrance.BATTERY,
    )
    holds("but not with one", Conditions(battery = 20, charging = true).hindrance == null)
    val retraining = Retraining(device, File(folder, "deltas"))
    val seen = ArrayList<Status>()
    runBlocking {
        val running = launch { retraining.run(pictures, Long.MAX_VALUE, conditions).collect { seen.add(it) } }
        while (seen.lastOrNull() != Status.Waiting(Hindrance.HOT)) delay(5)
        delay(50)
        holds(
            "it waits while the device is hot",
            seen.last() == Status.Waiting(Hindrance.HOT) && seen.none { it is Status.Training },
        )
        conditions.value = Conditions()
        running.join()
    }
    val done = seen.last() as Status.Done
    holds(
        "then it trains and says how well",
        done.accuracy!! > 0.3 && seen.any { it is Status.Training && it.accuracy != null },
    )
    holds(
        "the delta is there, the progress is not",
        retraining.delta.isFile && !File(folder, "deltas/progress.safetensors").exists(),
    )
    val right = argb.indices.count { recognised(
        retraining.model(),
        device.description,
        argb[it],
        pictures.layout,
    ).toLong() == label[it] }
    holds("pictures are recognised", right > argb.size / 2)
    runBlocking {
        var noted = false
        val running = launch {
            retraining.run(pictures, Long.MAX_VALUE, conditions).collect { status ->
                if (status is Status.Training && status.epoch == 2) noted = true
            }
        }
        while (!noted) delay(1)
        running.cancel()
        running.join()
    }
    val later = retraining.run(pictures, Long.MAX_VALUE, conditions).toList()
    holds(
        "ended, it goes on where it was",
        later.none { it is Status.Scoring } && later.none { it is Status.Training && it.epoch == 1 },
    )
    pictures.clear()
    holds("pictures can be forgotten", pictures.count == 0)
}

private fun part(samples: Samples, name: String, row: Int, size: Int): Pair<List<Byte>, Long> {
    val bytes = ByteArray(size) { samples.inputs.getValue(name).get(row * size + it) }
    val labels = samples.labels!!.duplicate().order(ByteOrder.LITTLE_ENDIAN)
    return Pair(bytes.toList(), labels.getLong(8 * row))
}

private const val MEMORY = 2_000_000L

/** The examples of docs/app-android.md. */
private suspend fun page(device: DevicePackage, data: Samples, folder: File) {
    val menu = File(folder, "copied")
    val other = opened(menu.list()!!.toList(), { File(menu, it).inputStream() }, File(folder, "of the page"))
    other.use {
        val model = personalised(other, data, folder, MEMORY, {})
        holds(
            "the page's training fits into the memory it was given",
            other.description.entry(model.entry.name).memoryAt(32) <= MEMORY,
        )
        val numbers = kept(model, data, File(folder, "personal.safetensors"))
        holds("and predicts", numbers.size == data.labels!!.capacity() / 8 * 10 && numbers.all { it.isFinite() })
        val again = device.load(File(folder, "personal.safetensors"))
        holds("and what it kept is the model again", bytes(again, folder) == bytes(model, folder))
    }
    val closed = try { other.score(data); null } catch (error: DeviceException) { error }
    holds("a closed package says so", advice(closed!!) == "the package is closed")
    holds(
        "the last of a flow is done",
        device.training(data, FitOptions().also { it.epochs = 1 }).last() is FitEvent.Done,
    )
}
