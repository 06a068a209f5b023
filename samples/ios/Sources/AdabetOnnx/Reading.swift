/// Reads a description from the JSON of device.json.
extension Description {
    init(_ json: JSON) throws {
        let fields = try Fields(json, "device.json")
        let format = try fields.text("format")
        guard format == "adabet-onnx/device" else {
            throw fields.wrong("'format' is '\(short(format))'; expected 'adabet-onnx/device'")
        }
        guard case .number(_, 1)? = fields.given("version") else {
            throw fields.wrong("'version' is not 1, the only version that this program reads: use a newer program")
        }
        let files = PackageFiles(try fields.list("files").map { try PackageFile(try Fields($0, "'files'")) })
        try files.checkUnique(fields)
        if fields.given("weights") != nil { _ = try files.named("weights", fields) }
        let inputs = try fields.filledList("inputs").map { try TensorType($0, "an input", .first) }
        let labels = try Labels(try fields.object("labels", called: "'labels'"))
        model = try fields.text("model")
        modelSHA256 = try fields.hash("model_sha256")
        oldestRuntime = try fields.text("oldest_onnxruntime")
        forwardBatch = try fields.wholeIfGiven("forward_batch", 1...1)
        outputs = try fields.filledList("outputs").map { try TensorType($0, "an output", .anywhere) }
        classNames = fields.given("class_names") == nil ? nil : try fields.texts("class_names")
        preprocessing =
            fields.given("preprocessing") == nil
            ? nil : try Preprocessing(try fields.object("preprocessing", called: "'preprocessing'"))
        start = try Start(try fields.object("training", called: "'training'"))
        scoring =
            fields.given("scoring") == nil
            ? nil : try ScoringPlan(try fields.object("scoring", called: "'scoring'"), files)
        entries = try fields.filledList("entries").map { try Entry(try Fields($0, "an entry"), files, inputs, labels) }
        self.files = files.all
        self.inputs = inputs
        self.labels = labels
        if let name = firstRepeated(entries.map(\.name)) {
            throw fields.wrong("two entries have the name '\(short(name))'")
        }
    }

    /// Names of files that are rewritten for a personal model: only their size is checked.
    var selected: Set<String> { Set(entries.map(\.selected.name)) }
}

func firstRepeated(_ names: [String]) -> String? {
    var seen: Set<String> = []
    return names.first { !seen.insert($0).inserted }
}

/// The files of a package, by name.
struct PackageFiles {
    let all: [PackageFile]

    init(_ all: [PackageFile]) { self.all = all }

    func checkUnique(_ fields: Fields) throws {
        if let name = firstRepeated(all.map(\.name)) {
            throw fields.wrong("'\(short(name))' is listed twice in 'files'")
        }
    }

    /// The file that a key names.
    func named(_ key: String, _ fields: Fields) throws -> PackageFile {
        let name = try fields.text(key)
        guard let file = all.first(where: { $0.name == name }) else {
            throw fields.wrong("'\(key)' of \(fields.place) is '\(short(name))', which is not in 'files'")
        }
        return file
    }

    func ifNamed(_ key: String, _ fields: Fields) throws -> PackageFile? {
        fields.given(key) == nil ? nil : try named(key, fields)
    }
}

extension PackageFile {
    init(_ fields: Fields) throws {
        name = try fields.text("name")
        guard !name.isEmpty, name != ".", name != "..", name.utf8.count <= 255, name != "device.json",
            !name.unicodeScalars.contains(where: { "/\\:".unicodeScalars.contains($0) || $0.value < 0x20 })
        else { throw fields.wrong("'\(short(name))' of 'files' is not a plain file name") }
        bytes = try fields.whole("bytes", 0...Fields.most)
        sha256 = try fields.hash("sha256")
    }
}

extension TensorType {
    init(_ json: JSON, _ what: String, _ batched: Batched) throws {
        let fields = try Fields(json, what)
        self = try fields.type(try fields.name("name"), try fields.dtype("dtype"), shape: "shape", batched)
    }
}

extension Description.Labels {
    init(_ fields: Fields) throws {
        type = try fields.type("labels", try fields.dtype("dtype"), shape: "shape", .first)
        classes = try fields.wholeIfGiven("classes", 1...Fields.most)
        ignored = try fields.wholeIfGiven("ignore", -Fields.most...Fields.most)
    }
}

extension Description.Start {
    init(_ fields: Fields) throws {
        learningRate = try fields.number("learning_rate")
        guard learningRate > 0 else {
            throw fields.wrong("'learning_rate' is \(learningRate); expected a number above 0")
        }
        batchSize = try fields.whole("batch_size", 1...Random.most)
        epochs = try fields.whole("epochs", 1...Fields.most)
        seed = UInt32(try fields.whole("seed", 0...Int(UInt32.max)))
    }
}

extension Preprocessing {
    init(_ fields: Fields) throws {
        scale = Float(try fields.number("scale"))
        mean = try fields.numbers("mean").map { Float($0) }
        std = try fields.numbers("std").map { Float($0) }
        guard std.allSatisfy({ $0 > 0 }) else { throw fields.wrong("'std' of \(fields.place) has a 0") }
        channelAxis = try fields.wholeIfGiven("channel_axis", 1...Fields.mostDimensions - 1)
        bgr = try fields.flag("bgr")
    }
}

extension ScoringPlan {
    init(_ fields: Fields, _ files: PackageFiles) throws {
        file = try files.named("file", fields)
        samples = try fields.whole("samples", 8...Loops.mostPoints)
        points = try fields.whole("points", 1...Loops.mostPoints)
        subsets = try fields.whole("subsets", 1...1_000_000)
        seed = UInt32(try fields.whole("seed", 0...Int(UInt32.max)))
        layers = try fields.filledList("layers").map { try ScoredLayer(try Fields($0, "a layer of 'scoring'")) }
    }
}

extension ScoredLayer {
    init(_ fields: Fields) throws {
        name = try fields.name("name")
        output = try fields.name("output")
        numbers = try fields.whole("numbers", 1...Int(Int32.max))
        size = try fields.whole("size", 1...Fields.most)
    }
}
