package dev.adabet.onnx

/** Reads device.json and checks that every value has the type and range of docs/device-package.md. */
internal fun described(json: Any?): Description {
    val root = Checked(json, Checked.TOP)
    val format = root.key("format").text()
    if (format != FORMAT) root.refuse("has the 'format' '${shown(format)}'; expected '$FORMAT'")
    val version = (json as Map<*, *>)["version"]
    if (version != 1L)
        root.refuse("has a 'version' other than 1, the only version that this program reads: use a newer program")
    val files = root.key("files").list().map {
        FileRecord(it.key("name").fileName(), it.key("bytes").whole(0), it.key("sha256").sha256())
    }
    root.key("files").unique("file", files.map { it.name })
    val reader = Reader(files.associateBy { it.name }, ports(root.key("inputs")))
    root.optional("weights")?.let { reader.file(it) }
    val labels = labels(root.key("labels"))
    val entries = root.key("entries").list(least = 1).map { reader.entry(it, labels) }
    root.key("entries").unique("entry", entries.map { it.name })
    return Description(
        model = root.key("model").text(),
        modelSha256 = root.key("model_sha256").sha256(),
        oldestOnnxRuntime = root.key("oldest_onnxruntime").text(),
        files = files,
        inputs = reader.inputs,
        outputs = outputs(root.key("outputs")),
        labels = labels,
        classNames = root.optional("class_names")?.list()?.map { it.text() },
        preprocessing = root.optional("preprocessing")?.let(::preprocessing),
        training = training(root.key("training")),
        forwardBatch = root.optional("forward_batch")?.int(1, MOST_SHUFFLED),
        scoring = root.optional("scoring")?.let { reader.scoring(it) },
        entries = entries,
    )
}

private const val FORMAT = "adabet-onnx/device"
private const val SEEDS = 0xFFFFFFFFL

private fun port(value: Checked, name: String, shape: String = "shape"): Port {
    val made = Port(name, value.key("dtype").dtype(), value.key(shape).shape(batched = true))
    if (made.bytes > Int.MAX_VALUE) value.key(shape).refuse("is too large")
    return made
}

private fun ports(list: Checked): List<Port> {
    val made = list.list(least = 1).map { port(it, it.key("name").text()) }
    list.unique("name", made.map { it.name })
    return made
}

private fun outputs(list: Checked): List<OutputPort> {
    val made = list.list(least = 1).map {
        OutputPort(
            it.key("name").text(),
            it.key("dtype").dtype(),
            it.key("shape").extents(),
            it.optional("role")?.text(),
        )
    }
    list.unique("name", made.map { it.name })
    return made
}

private fun labels(value: Checked): Labels {
    val made = port(value, "labels")
    if (made.dtype !in listOf(DType.INT64, DType.INT32, DType.FLOAT32))
        value.refuse("has the 'dtype' ${made.dtype.label}; expected int64 or float32")
    return Labels(made, value.optional("classes")?.whole(1), value.optional("ignore")?.whole(-Checked.MOST))
}

private fun preprocessing(value: Checked): Preprocessing {
    val std = value.key("std").list(least = 1).map { it.float() }
    if (0f in std) value.key("std").refuse("has a 0")
    return Preprocessing(
        scale = value.key("scale").float(),
        mean = value.key("mean").list(least = 1).map { it.float() },
        std = std,
        channelAxis = value.optional("channel_axis")?.int(1, 15),
        bgr = value.optional("bgr")?.flag() ?: false,
    )
}

private fun training(value: Checked): Defaults {
    val rate = value.key("learning_rate").number()
    if (rate <= 0) value.key("learning_rate").refuse("is $rate; expected a number above 0")
    return Defaults(
        rate,
        value.key("batch_size").int(1, MOST_SHUFFLED),
        value.key("epochs").int(1),
        value.key("seed").whole(0, SEEDS),
    )
}

/** The parts that refer to files and inputs. */
private class Reader(private val files: Map<String, FileRecord>, val inputs: List<Port>) {
    fun file(value: Checked): String = value.text().also {
        if (it !in files) value.refuse("is '${shown(it)}', which is not in 'files'")
    }

    fun scoring(value: Checked): Scoring {
        val layers = value.key("layers").list(least = 1).map {
            ScoredLayer(
                it.key("name").text(),
                it.key("output").text(),
                it.key("numbers").int(1, Int.MAX_VALUE / 4),
                it.key("size").whole(1).toDouble(),
            )
        }
        value.key("layers").unique("layer", layers.map { it.name })
        return Scoring(
            file(value.key("file")),
            value.key("samples").int(FEWEST_SCORED, 16384),
            value.key("points").int(1, 16384),
            value.key("subsets").int(1, 1_000_000),
            value.key("seed").whole(0, SEEDS),
            layers,
        )
    }

    fun entry(value: Checked, labels: Labels): Entry {
        val selectedBytes = value.key("selected_bytes").int(1)
        for (key in listOf("state", "selected")) {
            val found = files.getValue(file(value.key(key))).bytes
            if (found != selectedBytes.toLong())
                value.key("selected_bytes").refuse("is $selectedBytes; '$key' has $found bytes")
        }
        value.optional("model")?.let { file(it) }
        val tensors = tensors(value.key("tensors"), selectedBytes)
        val logits = Port(
            value.key("names").key("logits").text(),
            DType.FLOAT32,
            value.key("logits_shape").shape(batched = true),
        )
        if (logits.bytes > Int.MAX_VALUE) value.key("logits_shape").refuse("is too large")
        val made = Entry(
            name = value.key("name").text(),
            layers = value.key("layers").list().map { it.text() },
            trained = value.key("trained").whole(1),
            selectedBytes = selectedBytes,
            files = entryFiles(value),
            boundary = boundary(value),
            names = names(value.key("names")),
            logits = logits,
            classAxis = classAxis(value, logits, labels),
            tensors = tensors,
            memory = memory(value.key("memory")),
        )
        distinct(value, made)
        return made
    }

    private fun entryFiles(value: Checked) = EntryFiles(
        frozen = value.optional("frozen")?.let { file(it) },
        step = file(value.key("step")),
        evaluation = file(value.key("evaluation")),
        prediction = file(value.key("prediction")),
        state = file(value.key("state")),
        selected = file(value.key("selected")),
    )

    private fun names(value: Checked) = Names(
        value.key("labels").text(),
        value.key("learning_rate").text(),
        value.key("step").text(),
        value.key("loss").text(),
        value.key("logits").text(),
    )

    /** Check that a graph's inputs, and its outputs, have different names. */
    private fun distinct(value: Checked, entry: Entry) {
        val names = entry.names
        val fed = listOf(names.labels, names.learningRate, names.step) + entry.boundary.map { it.port.name }
        value.unique("input", fed + entry.tensors.map { it.input })
        value.unique("output", listOf(names.loss, names.logits) + entry.tensors.map { it.output })
    }

    private fun boundary(value: Checked): List<Boundary> = value.key("boundary").list(least = 1).map { item ->
        val made = Boundary(port(item, item.key("name").text()), item.optional("input")?.text())
        if (item.key("bytes").whole(1) != made.port.bytes)
            item.key("bytes").refuse("is not ${made.port.bytes}, the size of its shape")
        val input = inputs.firstOrNull { it.name == made.input }
        when {
            made.input == null ->
                if (value.key("frozen").isNull) item.refuse("is computed, but there is no frozen graph")
            input == null || input.dtype != made.port.dtype || input.shape != made.port.shape ->
                item.refuse("is not the model's input '${shown(made.input)}' unchanged")
        }
        made
    }

    private fun classAxis(value: Checked, logits: Port, labels: Labels): Int? {
        val axis = value.optional("class_axis")?.int(1, maxOf(1, logits.shape.size))?.minus(1) ?: return null
        val classes = logits.shape.getOrNull(axis) ?: value.key("logits_shape").refuse("has no axis of classes")
        if (labels.classes != null && labels.classes != classes.toLong())
            value.key("logits_shape").refuse("has $classes classes; expected ${labels.classes}")
        return axis
    }

    private fun memory(value: Checked): List<Pair<Int, Long>> {
        val pairs = value.list(least = 1).map { item ->
            val pair = item.list(least = 2)
            if (pair.size != 2) item.refuse("is not a pair of a batch and bytes")
            Pair(pair[0].int(1), pair[1].whole(0))
        }
        if (pairs.zipWithNext().any { (a, b) -> a.first >= b.first }) value.refuse("has batches that are not ascending")
        return pairs
    }

    private fun tensors(value: Checked, selectedBytes: Int): List<Tensor> {
        var end = 0L
        val made = value.list(least = 1).map { item -> tensor(item, end).also { end = it.offset + it.bytes } }
        value.unique("tensor", made.map { it.name })
        if (made[0].kind != Kind.PARAMETER) value.refuse("does not begin with a parameter")
        if (made.zipWithNext().any { (a, b) -> a.kind > b.kind })
            value.refuse("is in another order; expected parameters first, then statistics, then the optimizer's")
        val kept = made.last { it.kind != Kind.OPTIMIZER }
        val keptEnd = kept.offset + kept.bytes
        if (keptEnd > selectedBytes || selectedBytes - keptEnd >= 64)
            value.refuse("has parameters and statistics up to $keptEnd; 'selected_bytes' is $selectedBytes")
        made.firstOrNull { it.kind == Kind.OPTIMIZER && it.bytes > selectedBytes } // before memory is allocated
            ?.let { value.refuse("has '${shown(it.name)}', which is larger than everything that is trained") }
        if (end > Int.MAX_VALUE - 64) value.refuse("is too large")
        return made
    }

    private fun tensor(item: Checked, end: Long): Tensor {
        val kinds = Kind.entries.associateBy { it.name.lowercase() }
        val shape = item.key("shape").shape(batched = false)
        val made = Tensor(
            item.key("name").text(),
            kinds[item.key("kind").text()]
                ?: item.key("kind").refuse("is not a kind; expected parameter, statistic or optimizer"),
            item.key("input").text(),
            item.key("output").text(),
            shape,
            item.key("offset").whole(0),
            item.key("bytes").whole(1),
        )
        val expected = shape.fold(DType.FLOAT32.width.toLong()) { size, extent -> times(size, extent.toLong()) }
        if (item.key("dtype").dtype() != DType.FLOAT32) item.key("dtype").refuse("is not supported; expected float32")
        if (made.bytes != expected) item.key("bytes").refuse("is ${made.bytes}; its shape has $expected")
        if (made.offset % 64 != 0L || made.offset != up(end))
            item.key("offset").refuse("is ${made.offset}; expected the next multiple of 64")
        if (made.offset > Int.MAX_VALUE - 64 - made.bytes) item.refuse("is too large")
        return made
    }

    private fun up(bytes: Long): Long = (bytes + 63) / 64 * 64
}
