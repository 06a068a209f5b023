import Foundation

/// The inputs of training steps: outputs of the frozen graph, computed once for each sample and stored.
struct Features {
    private enum Source {
        case input(Int)
        case made(Memory)
    }

    private let samples: CheckedSamples
    private let sources: [Source]

    init(_ device: Device, _ entry: Entry, _ samples: CheckedSamples) throws {
        self.samples = samples
        sources = try entry.boundary.map { boundary in
            if let input = boundary.input { return .input(input) }
            let purpose = "the features of \(samples.count) samples"
            return .made(try Memory(samples.count, times: boundary.type.bytes, for: purpose, advice: ": take fewer"))
        }
        let made = zip(entry.boundary, sources).compactMap { boundary, source -> (TensorType, Memory)? in
            guard case .made(let memory) = source else { return nil }
            return (boundary.type, memory)
        }
        if let frozen = entry.frozen, !made.isEmpty {
            try Self.compute(device, frozen, samples, made)
        }
    }

    /// Computes one sample at a time.
    private static func compute(
        _ device: Device, _ frozen: PackageFile, _ samples: CheckedSamples, _ made: [(TensorType, Memory)]
    ) throws {
        let single = try SingleSample(device)
        let graph = try device.graph(frozen, ins: device.description.inputs.map { Slot($0) }, outs: made.map { Slot($0.0) })
        for sample in 0..<samples.count {
            try device.checkCancelled("training")
            let outs = try made.map { type, memory in
                try Value(device.runtime, type, over: memory, at: sample * type.bytes)
            }
            try graph.run(single.filled(samples, sample), into: outs)
        }
    }

    /// Copies a boundary value of a sample.
    func copy(_ boundary: Int, _ sample: Int, bytes: Int, to place: UnsafeMutableRawPointer) {
        switch sources[boundary] {
        case .input(let input): samples.copy(input: input, sample: sample, bytes: bytes, to: place)
        case .made(let memory): place.copyMemory(from: memory.start + sample * bytes, byteCount: bytes)
        }
    }
}

/// Memory for one sample of the model's inputs, and tensors over it.
struct SingleSample {
    private let memories: [Memory]
    private let types: [TensorType]
    let values: [Value]

    init(_ device: Device) throws {
        let types = device.description.inputs
        let memories = try types.map { try Memory($0.bytes, for: "a sample") }
        self.types = types
        self.memories = memories
        values = try zip(types, memories).map { try Value(device.runtime, $0, over: $1) }
    }

    func filled(_ samples: CheckedSamples, _ sample: Int) -> [Value] {
        for (input, type) in types.enumerated() {
            samples.copy(input: input, sample: sample, bytes: type.bytes, to: memories[input].start)
        }
        return values
    }
}

/// Features and labels of a batch of samples, in memory that is reused.
struct Batch {
    private let runtime: Runtime
    private let types: [TensorType]
    private let memories: [Memory]
    private let features: Features
    private let labels: Data
    let size: Int

    init(_ device: Device, _ entry: Entry, _ features: Features, _ labels: Data, size: Int) throws {
        let types = entry.boundary.map(\.type) + [device.description.labels.type]
        memories = try types.map { try Memory(size, times: $0.bytes, for: "batches of \(size) samples") }
        runtime = device.runtime
        self.types = types
        self.features = features
        self.labels = labels
        self.size = size
    }

    /// The labels of the current batch.
    var labelBytes: UnsafeRawBufferPointer { memories[memories.count - 1].bytes }

    /// The tensors of these samples: inputs of training steps, and labels.
    func values(_ samples: some Collection<Int>) throws -> [Value] {
        for (array, type) in types.enumerated() {
            for (row, sample) in samples.enumerated() {
                let place = memories[array].start + row * type.bytes
                if array < types.count - 1 {
                    features.copy(array, sample, bytes: type.bytes, to: place)
                } else {
                    labels.withUnsafeBytes {
                        place.copyMemory(from: $0.baseAddress! + sample * type.bytes, byteCount: type.bytes)
                    }
                }
            }
        }
        return try zip(types, memories).map { try Value(runtime, $0, over: $1, samples: samples.count) }
    }
}
