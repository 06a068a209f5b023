import Foundation

/// An entry with its trained values: train it, predict with it, save what it has learned.
///
/// During training, requests are answered with the values of the last complete epoch.
public actor Model {
    public nonisolated let device: Device
    public nonisolated let entry: Entry
    /// The values after the last complete epoch, with the layout of the state.
    var kept: Memory
    /// The position in training; nil before any.
    var place: Place?
    var isTraining = false
    private var predictionGraph: Graph?

    init(_ device: Device, _ entry: Entry, _ kept: Memory, _ place: Place? = nil) throws {
        self.device = device
        self.entry = entry
        self.kept = kept
        self.place = place
    }

    /// Complete epochs so far.
    public var epoch: Int { place?.epoch ?? 0 }

    /// Restores the values of the package.
    public func reset() throws {
        guard !isTraining else { throw DeviceError(.busy, "the model is being trained: stop that first") }
        kept = try device.initialState(entry)
        place = nil
    }

    // MARK: - Predictions

    /// The model's outputs, by name.
    public func predict(_ samples: Samples) throws -> [String: Output] {
        let checked = try CheckedSamples(samples, device.description, labelled: false, "data")
        let size = device.description.forwardBatch ?? device.description.start.batchSize
        let graph = try predictionGraph ?? openPrediction()
        predictionGraph = graph
        let state = try stateValues(device.runtime, kept, entry.kept)
        var parts = device.description.outputs.map { OutputParts($0) }
        for first in stride(from: 0, to: checked.count, by: size) {
            try device.checkCancelled("predicting")
            let count = min(size, checked.count - first)
            let given = try graph.run(try inputs(checked, first, count) + state, into: parts.map { _ in nil })
            for place in parts.indices { try parts[place].add(given[place], samples: count) }
        }
        return Dictionary(uniqueKeysWithValues: parts.map { ($0.type.name, $0.joined()) })
    }

    private func openPrediction() throws -> Graph {
        let ins = device.description.inputs.map { Slot($0) } + entry.kept.map { Slot($0.input, .float32) }
        return try device.graph(entry.prediction, ins: ins, outs: device.description.outputs.map { Slot($0) })
    }

    private func inputs(_ samples: CheckedSamples, _ first: Int, _ count: Int) throws -> [Value] {
        try device.description.inputs.enumerated().map { input, type in
            let memory = try Memory(count, times: type.bytes, for: "\(count) samples")
            samples.copy(input: input, sample: first, bytes: type.bytes, count: count, to: memory.start)
            return try Value(device.runtime, type, over: memory, samples: count)
        }
    }

    // MARK: - Files

    /// Writes the trained values as a delta, a file to be sent: it can be loaded into the same model on any device, or
    /// applied to the artifacts with `adabet-onnx delta apply`. The file is written atomically.
    public func saveDelta(to file: URL) throws {
        if let name = notFinite(entry.kept, in: kept) {
            throw DeviceError(.notFinite, "'\(short(name))' is not finite")
        }
        try Saved.save(file.path, device, entry, kept, nil)
    }

    /// The file from which the package's ordinary model reads the trained tensors: next to it, it makes that model
    /// personal.
    public func saveSelected(to file: URL) throws {
        try Files.store([UnsafeRawBufferPointer(start: kept.start, count: entry.selectedBytes)], to: file.path)
    }
}

/// Tensors over memory with the layout of the state.
func stateValues(_ runtime: Runtime, _ memory: Memory, _ tensors: some Sequence<StateTensor>) throws -> [Value] {
    try tensors.map { try Value(runtime, $0.type, over: memory, at: $0.offset) }
}

/// The name of the first tensor that has a NaN or infinite number.
func notFinite(_ tensors: some Sequence<StateTensor>, in memory: Memory) -> String? {
    tensors.first { tensor in
        let numbers = UnsafeRawBufferPointer(start: memory.start + tensor.offset, count: tensor.type.bytes)
        return !numbers.bindMemory(to: Float.self).allSatisfy(\.isFinite)
    }?.type.name
}

/// An output of the model.
public struct Output: Sendable {
    public let dtype: DataType
    public let shape: [Int]
    public let data: Data

    /// Its numbers, if they are float32.
    public var floats: [Float] {
        guard dtype == .float32 else { return [] }
        return data.withUnsafeBytes { bytes in
            (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
        }
    }
}

/// An output of several batches, concatenated along the axis of samples.
private struct OutputParts {
    let type: TensorType
    private var parts: [Data] = []
    private var samples: [Int] = []

    init(_ type: TensorType) { self.type = type }

    mutating func add(_ value: Value, samples count: Int) throws {
        parts.append(try value.withBytes(type, samples: count) { Data($0) })
        samples.append(count)
    }

    func joined() -> Output {
        let axis = type.shape.firstIndex(where: \.perSample) ?? 0, all = samples.reduce(0, +)
        let before = type.shape.prefix(axis).reduce(1) { $0 * $1.count }
        var data = Data(capacity: type.bytes(samples: all))
        if type.shape.isEmpty || !type.shape[axis].perSample {
            data = parts.last ?? data
        } else {
            for row in 0..<before {
                for part in parts {
                    let width = part.count / before
                    data.append(part[row * width..<(row + 1) * width])
                }
            }
        }
        return Output(dtype: type.dtype, shape: type.extents(samples: all), data: data)
    }
}
