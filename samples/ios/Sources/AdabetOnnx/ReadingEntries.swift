/// Reads entries from JSON.
extension Entry {
    init(_ given: Fields, _ files: PackageFiles, _ inputs: [TensorType], _ labels: Description.Labels) throws {
        let name = try given.name("name")
        let fields = given.called(short(name))
        self.name = name
        layers = try fields.texts("layers")
        trained = try fields.whole("trained", 0...Fields.most)
        let frozen = try files.ifNamed("frozen", fields)
        self.frozen = frozen
        step = try files.named("step", fields)
        evaluation = try files.named("evaluation", fields)
        prediction = try files.named("prediction", fields)
        state = try files.named("state", fields)
        selected = try files.named("selected", fields)
        _ = try files.ifNamed("model", fields)
        boundary = try fields.filledList("boundary").map { try Boundary(try Fields($0, "a boundary"), inputs, frozen) }
        let names = try Names(try fields.object("names", called: "'names'"))
        self.names = names
        logits = try fields.type(names.logits, .float32, shape: "logits_shape", .first)
        classAxis = try fields.wholeIfGiven("class_axis", 1...max(1, logits.shape.count - 1))
        selectedBytes = try fields.whole("selected_bytes", 1...Fields.most)
        tensors = try fields.list("tensors").map { try StateTensor(try Fields($0, "a tensor")) }
        memory = try Self.memory(fields)
        try checkClasses(fields, labels)
        try checkTensors(fields)
        try checkSelected(fields)
    }

    static func memory(_ fields: Fields) throws -> [MemoryPair] {
        var found: [MemoryPair] = []
        for item in try fields.filledList("memory") {
            guard case .array(let pair) = item, pair.count == 2, case .number(_, let batch?) = pair[0],
                case .number(_, let bytes?) = pair[1], (1...Fields.most).contains(batch),
                (0...Fields.most).contains(bytes), batch > found.last?.batch ?? 0
            else { throw fields.wrong("'memory' of \(fields.place) is not a list of [batch, bytes] with batches ascending") }
            found.append(MemoryPair(batch: batch, bytes: bytes))
        }
        return found
    }

    private func checkClasses(_ fields: Fields, _ labels: Description.Labels) throws {
        guard let axis = classAxis else { return }
        guard axis < logits.shape.count else {
            throw fields.wrong("'class_axis' of \(fields.place) is \(axis); expected a whole number from 1 to its rank")
        }
        let found = logits.shape[axis].count
        if let classes = labels.classes, found < classes {
            throw fields.misshapen("logits of \(fields.place) have \(found) classes; expected \(classes)")
        }
    }

    /// Kinds, offsets and names.
    private func checkTensors(_ fields: Fields) throws {
        var end = 0
        for (place, tensor) in tensors.enumerated() {
            let name = short(tensor.type.name)
            guard tensor.offset >= end, tensor.offset - end < 64 else {
                throw fields.misshapen(
                    "\(name) begins at \(tensor.offset); expected the next multiple of 64 at or after \(end)")
            }
            end = tensor.offset + tensor.type.bytes
            guard place == 0 || tensor.kind >= tensors[place - 1].kind else {
                let expected = "parameters first, then statistics, then the optimizer's"
                throw fields.wrong("tensors of \(fields.place) are not \(expected)")
            }
            guard tensor.kind != .optimizer || tensor.type.bytes <= selectedBytes else {
                throw fields.misshapen("\(name) is larger than everything that is trained")
            }
        }
        guard tensors.first?.kind == .parameter else { throw fields.wrong("\(fields.place) has no parameters") }
        if let name = firstRepeated(tensors.map(\.type.name)) {
            throw fields.wrong("\(fields.place) has the tensor '\(short(name))' twice")
        }
    }

    private func checkSelected(_ fields: Fields) throws {
        let end = kept.last.map { $0.offset + $0.type.bytes } ?? 0
        guard selectedBytes >= end, selectedBytes - end < 64, selected.bytes == selectedBytes, state.bytes == selectedBytes
        else {
            let found = "\(short(selected.name)) has \(selected.bytes) bytes and \(short(state.name)) \(state.bytes)"
            throw fields.misshapen(
                "'selected_bytes' of \(fields.place) is \(selectedBytes); parameters and statistics end at \(end), \(found)")
        }
    }
}

extension Entry.Names {
    init(_ fields: Fields) throws {
        labels = try fields.name("labels")
        learningRate = try fields.name("learning_rate")
        step = try fields.name("step")
        loss = try fields.name("loss")
        logits = try fields.name("logits")
    }
}

extension Boundary {
    init(_ given: Fields, _ inputs: [TensorType], _ frozen: PackageFile?) throws {
        let name = try given.name("name"), fields = given.called(short(name))
        type = try fields.type(name, try fields.dtype("dtype"), shape: "shape", .first)
        let bytes = try fields.whole("bytes", 1...Fields.most)
        guard bytes == type.bytes else {
            throw fields.misshapen("'bytes' of \(fields.place) is \(bytes); its shape has \(type.bytes)")
        }
        guard fields.given("input") != nil else {
            guard frozen != nil else { throw fields.wrong("no frozen graph computes \(fields.place)") }
            input = nil
            return
        }
        let source = try fields.text("input"), wanted = type
        input = inputs.firstIndex { $0.name == source && $0.bytes == wanted.bytes && $0.dtype == wanted.dtype }
        guard input != nil else {
            throw fields.misshapen("\(fields.place) is not the model's input '\(short(source))'")
        }
    }
}

extension StateTensor {
    init(_ given: Fields) throws {
        let name = try given.name("name"), fields = given.called(short(name))
        let word = try fields.text("kind")
        guard let kind = Kind(rawValue: word) else {
            let expected = "parameter, statistic or optimizer"
            throw fields.wrong("'kind' of \(fields.place) is '\(short(word))'; expected \(expected)")
        }
        self.kind = kind
        input = try fields.name("input")
        output = try fields.name("output")
        type = try fields.type(name, try fields.dtype("dtype"), shape: "shape", .no)
        guard type.dtype == .float32 else {
            throw fields.misshapen("\(fields.place) is \(type.dtype.rawValue); expected float32")
        }
        offset = try fields.whole("offset", 0...Fields.most)
        let bytes = try fields.whole("bytes", 1...Fields.most)
        guard bytes == type.bytes else {
            throw fields.misshapen("'bytes' of \(fields.place) is \(bytes); its shape has \(type.bytes)")
        }
        guard offset % 64 == 0 else {
            throw fields.misshapen("\(fields.place) begins at \(offset); expected the next multiple of 64")
        }
    }
}
