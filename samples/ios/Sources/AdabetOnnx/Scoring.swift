import Foundation

/// The scores of layers.
public struct Scores: Sendable {
    /// Number of samples used.
    public let samples: Int
    /// b1_hat of each layer, in the order of the package.
    public let layers: [Layer]

    public struct Layer: Sendable {
        public let name: String
        public let score: Double
    }

    public init(samples: Int, layers: [Layer]) {
        self.samples = samples
        self.layers = layers
    }
}

extension Device {
    private static let fewest = 8

    /// Scores the layers by forward passes of single samples; labels are not needed.
    ///
    /// - Parameter onProgress: called after each sample and each layer, with the number done and the total.
    /// - Throws: `usage` if the package cannot score, `tooFew`, `notFinite`, and `cancelled` if the task was cancelled.
    public func score(
        _ samples: Samples, onProgress: (@Sendable (_ done: Int, _ of: Int) async -> Void)? = nil
    ) async throws -> Scores {
        guard let plan = description.scoring else {
            throw DeviceError(.usage, "the package has no graph for scoring: create one that does")
        }
        let checked = try CheckedSamples(samples, description, labelled: false, "data")
        let count = min(plan.samples, checked.count), all = count + plan.layers.count
        guard count >= Self.fewest else {
            throw DeviceError(.tooFew, "there are \(count) samples; scoring needs at least \(Self.fewest)")
        }
        let run = try ScoringRun(self, plan, count)
        for sample in 0..<count {
            try checkCancelled("scoring")
            try run.look(at: sample, of: checked)
            await onProgress?(sample + 1, all)
        }
        var layers: [Scores.Layer] = []
        for layer in plan.layers.indices {
            try checkCancelled("scoring")
            layers.append(Scores.Layer(name: plan.layers[layer].name, score: try run.score(layer)))
            await onProgress?(count + layers.count, all)
        }
        return Scores(samples: count, layers: layers)
    }
}

/// The numbers that represent each layer's activation, for all samples.
private final class ScoringRun: @unchecked Sendable {  // used by one task only
    private let plan: ScoringPlan
    private let samples: Int
    private let graph: Graph
    private let single: SingleSample
    /// Two layers may share an output.
    private let outputs: [String]
    private let numbers: [Memory]

    init(_ device: Device, _ plan: ScoringPlan, _ samples: Int) throws {
        self.plan = plan
        self.samples = samples
        var outputs: [String] = []
        for layer in plan.layers where !outputs.contains(layer.output) { outputs.append(layer.output) }
        self.outputs = outputs
        numbers = try plan.layers.map { try Memory(samples, times: 4 * $0.numbers, for: "the outputs of layers") }
        single = try SingleSample(device)
        let ins = device.description.inputs.map { Slot($0) }
        graph = try device.graph(plan.file, ins: ins, outs: outputs.map { Slot($0, .float32) })
    }

    func look(at sample: Int, of checked: CheckedSamples) throws {
        let given = try graph.run(single.filled(checked, sample), into: outputs.map { _ in nil })
        for (place, layer) in plan.layers.enumerated() {
            let value = given[outputs.firstIndex(of: layer.output)!]
            try value.withBytes(layer.output, .float32) { bytes, _ in
                guard bytes.count == 4 * layer.numbers else {
                    let expected = "expected \(layer.numbers) of float32"
                    throw DeviceError(
                        .wrongShape, "'\(short(layer.output))' has \(bytes.count / 4) numbers; \(expected)")
                }
                guard bytes.bindMemory(to: Float.self).allSatisfy(\.isFinite) else {
                    let what = "the activation of layer '\(short(layer.name))' is not finite"
                    throw DeviceError(.notFinite, "\(what) for sample \(sample)")
                }
                (numbers[place].start + sample * bytes.count).copyMemory(from: bytes.baseAddress!, byteCount: bytes.count)
            }
        }
    }

    /// All layers use the same subsets, which are drawn again.
    func score(_ layer: Int) throws -> Double {
        let points = min(plan.points, samples), count = points == samples ? 1 : plan.subsets
        var random = Random(seed: plan.seed, stream: 0)
        let total = try loops(layer).count(count) { random.subset(self.samples, points) }.reduce(0, +)
        return Double(total) / Double(count) / (Double(points) * Double(plan.layers[layer].size))
    }

    private func loops(_ layer: Int) throws -> Loops {
        let width = plan.layers[layer].numbers
        let from = numbers[layer].start.bindMemory(to: Float.self, capacity: samples * width)
        return try Loops(count: samples) { i, j in
            var sum = 0.0
            for k in 0..<width {
                let apart = Double(from[i * width + k]) - Double(from[j * width + k])
                sum += apart * apart
            }
            return sum.squareRoot()
        }
    }
}
