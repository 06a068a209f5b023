import Foundation

/// How to train. Defaults are those of the package.
public struct FitOptions: Sendable {
    public var learningRate: Double?
    public var batchSize: Int?
    /// Total number of epochs, including earlier ones.
    public var epochs: Int?
    /// Random seed of the order of samples.
    public var seed: UInt32?
    /// A file written after each epoch, from which training resumes if it exists. The caller must pass the same
    /// samples.
    public var progress: URL?
    /// Evaluated after each epoch.
    public var heldOut: Samples?

    public init(
        learningRate: Double? = nil, batchSize: Int? = nil, epochs: Int? = nil, seed: UInt32? = nil,
        progress: URL? = nil, heldOut: Samples? = nil
    ) {
        self.learningRate = learningRate
        self.batchSize = batchSize
        self.epochs = epochs
        self.seed = seed
        self.progress = progress
        self.heldOut = heldOut
    }
}

/// Progress, reported after each step and once more after each epoch.
public struct TrainingProgress: Sendable {
    /// From 1.
    public let epoch: Int
    public let epochs: Int
    /// Over all epochs, from 1.
    public let step: Int
    public let stepsPerEpoch: Int
    /// Loss of the step; with `epochDone`, the mean over the epoch's samples.
    public let loss: Double
    public let epochDone: Bool
    /// With `epochDone`, if there are held-out samples.
    public let heldOut: Evaluation?
}

/// The position in training, after complete epochs.
struct Place: Equatable, Sendable {
    var epoch: Int
    var step: Int
    var seed: Int
    var batchSize: Int
}

extension Model {
    /// Trains.
    ///
    /// - Parameter onProgress: called and awaited after each step and each epoch: training is
    ///   paused until it returns. To stop, cancel the task.
    /// - Throws: `notFinite` if the loss is not finite, `cancelled` if the task was cancelled, and others; the model
    ///   keeps the values of the last complete epoch, and `fit` resumes from there.
    public func fit(
        _ samples: Samples, _ options: FitOptions = FitOptions(),
        onProgress: (@Sendable (TrainingProgress) async -> Void)? = nil
    ) async throws {
        guard !isTraining else { throw DeviceError(.busy, "the model is already being trained") }
        isTraining = true
        defer { isTraining = false }
        let plan = try FitPlan(device, samples, options)
        try takeProgress(plan)
        let run = try FitRun(device, entry, plan, kept, step: place?.step ?? 0)
        let heldOut = try options.heldOut.map {
            try EvaluationRun(device, entry, $0, batchSize: plan.batchSize, "held-out data")
        }
        var epoch = (place?.epoch ?? 0) + 1
        while epoch <= plan.epochs {
            let loss = try await runEpoch(epoch, run, plan, onProgress)
            try end(epoch, run, plan)
            let found = try heldOut?.evaluate(stateValues(device.runtime, kept, entry.kept))
            await onProgress?(plan.progress(epoch, run.step, loss, epochDone: true, heldOut: found))
            try checkCancelled(epoch, run.step)
            epoch += 1
        }
    }

    /// Loss and accuracy with the current values.
    public func evaluate(_ samples: Samples, batchSize: Int? = nil) throws -> Evaluation {
        let size = batchSize ?? device.description.start.batchSize
        guard (1...Random.most).contains(size) else {
            throw DeviceError(.usage, "a batch size of \(size); expected at least 1")
        }
        let run = try EvaluationRun(device, entry, samples, batchSize: size, "data")
        return try run.evaluate(stateValues(device.runtime, kept, entry.kept))
    }

    /// Loads the values of the progress file, if it exists, and checks that they belong to this training.
    private func takeProgress(_ plan: FitPlan) throws {
        var source = "this model"
        if let path = plan.progressPath, Files.exists(path) {
            let state = try device.initialState(entry)
            place = try Saved.restore(path, device, entry, into: state, progress: true)
            kept = state
            source = path
        }
        guard let place else { return }
        let whole = place.epoch.multipliedReportingOverflow(by: plan.steps)
        guard place.seed == Int(plan.seed), place.batchSize == plan.batchSize, place.epoch >= 1, !whole.overflow,
            place.step == whole.partialValue
        else {
            let found = "seed \(place.seed), batch size \(place.batchSize), \(place.step) steps after epoch \(place.epoch)"
            let expected = "seed \(plan.seed), batch size \(plan.batchSize), \(plan.steps) steps per epoch"
            throw DeviceError(
                .wrongModel,
                "\(source) belongs to another training run: \(found); expected \(expected). Remove it to start again")
        }
    }

    private func runEpoch(
        _ epoch: Int, _ run: FitRun, _ plan: FitPlan, _ onProgress: (@Sendable (TrainingProgress) async -> Void)?
    ) async throws -> Double {
        let order = Random.shuffle(plan.samples.count, seed: plan.seed, stream: UInt32(truncatingIfNeeded: epoch))
        var sum = 0.0
        for first in stride(from: 0, to: order.count, by: plan.batchSize) {
            try checkCancelled(epoch, run.step)
            let rows = order[first..<min(first + plan.batchSize, order.count)]
            let loss = try run.next(rows)
            sum += loss * Double(rows.count)
            await onProgress?(plan.progress(epoch, run.step, loss, epochDone: false, heldOut: nil))
            await Task.yield()  // a step blocks a shared thread for long
        }
        try checkCancelled(epoch, run.step)
        return sum / Double(order.count)
    }

    /// Keeps and stores the values of a complete epoch.
    private func end(_ epoch: Int, _ run: FitRun, _ plan: FitPlan) throws {
        if let name = notFinite(entry.tensors, in: run.values) {
            let advice = "use a learning rate below \(plan.learningRate)"
            throw DeviceError(.notFinite, "'\(short(name))' is not finite after epoch \(epoch): \(advice)")
        }
        let values = try Memory(entry.stateBytes, for: "the trained values")
        values.copy(from: run.values, count: entry.stateBytes)
        kept = values
        place = Place(epoch: epoch, step: run.step, seed: Int(plan.seed), batchSize: plan.batchSize)
        if let path = plan.progressPath { try Saved.save(path, device, entry, kept, place) }
    }

    private func checkCancelled(_ epoch: Int, _ step: Int) throws {
        guard !Task.isCancelled else {
            throw DeviceError(.cancelled, "training was stopped in epoch \(epoch), after step \(step)")
        }
    }
}

/// The checked options.
private struct FitPlan {
    let samples: CheckedSamples
    let learningRate: Double
    let batchSize: Int
    let epochs: Int
    let seed: UInt32
    /// Steps per epoch.
    let steps: Int
    let progressPath: String?

    init(_ device: Device, _ samples: Samples, _ options: FitOptions) throws {
        let start = device.description.start
        learningRate = options.learningRate ?? start.learningRate
        batchSize = options.batchSize ?? start.batchSize
        epochs = options.epochs ?? start.epochs
        seed = options.seed ?? start.seed
        progressPath = options.progress?.path
        guard (1...Random.most).contains(batchSize), epochs >= 1 else {
            let expected = "expected at least 1 of both"
            throw DeviceError(.usage, "a batch size of \(batchSize) and \(epochs) epochs; \(expected)")
        }
        guard learningRate.isFinite, learningRate > 0 else {
            throw DeviceError(.usage, "a learning rate of \(learningRate); expected a number above 0")
        }
        self.samples = try CheckedSamples(samples, device.description, labelled: true, "data")
        let count = self.samples.count
        guard count <= Random.most else {
            throw DeviceError(.usage, "there are \(count) samples; at most \(Random.most) can be shuffled")
        }
        steps = (count - 1) / batchSize + 1
    }

    func progress(_ epoch: Int, _ step: Int, _ loss: Double, epochDone: Bool, heldOut: Evaluation?) -> TrainingProgress {
        TrainingProgress(
            epoch: epoch, epochs: epochs, step: step, stepsPerEpoch: steps, loss: loss, epochDone: epochDone,
            heldOut: heldOut)
    }
}

/// Steps, with two sets of values that alternate as input and output.
private final class FitRun {
    private let device: Device
    private let entry: Entry
    private let graph: Graph
    private let batch: Batch
    private let states: [Memory]
    private let tensors: [[Value]]
    private let loss, logits, rate, number: Memory
    private let lossValue, rateValue, numberValue: Value
    private let learningRate: Double
    /// The set that holds the current values.
    private var now = 0
    /// Steps so far.
    private(set) var step: Int

    var values: Memory { states[now] }

    init(_ device: Device, _ entry: Entry, _ plan: FitPlan, _ start: Memory, step: Int) throws {
        self.device = device
        self.entry = entry
        self.step = step
        learningRate = plan.learningRate
        let states = try (0..<2).map { _ in try Memory(entry.stateBytes, for: "the trained values", zeroed: true) }
        states[0].copy(from: start, count: entry.stateBytes)
        self.states = states
        tensors = try states.map { try stateValues(device.runtime, $0, entry.tensors) }
        let features = try Features(device, entry, plan.samples), size = min(plan.batchSize, plan.samples.count)
        batch = try Batch(device, entry, features, plan.samples.labels, size: size)
        logits = try Memory(size, times: entry.logits.bytes, for: "logits")
        (loss, rate, number) = (try Memory(4, for: "a loss"), try Memory(4, for: "a rate"), try Memory(8, for: "a number"))
        rate.start.storeBytes(of: Float(plan.learningRate), as: Float.self)
        lossValue = try Value(device.runtime, .number(.float32), over: loss)
        rateValue = try Value(device.runtime, .number(.float32), over: rate)
        numberValue = try Value(device.runtime, .number(.int64), over: number)
        let names = entry.names, labels = device.description.labels.type.dtype
        let ins =
            entry.boundary.map { Slot($0.type) }
            + [Slot(names.labels, labels), Slot(names.learningRate, .float32), Slot(names.step, .int64)]
            + entry.tensors.map { Slot($0.input, .float32) }
        let outs =
            [Slot(names.loss, .float32), Slot(names.logits, .float32)] + entry.tensors.map { Slot($0.output, .float32) }
        graph = try device.graph(entry.step, ins: ins, outs: outs)
    }

    /// Runs a step on these samples; returns its loss.
    func next(_ samples: ArraySlice<Int>) throws -> Double {
        number.start.storeBytes(of: Int64(step + 1), as: Int64.self)
        let logits = try Value(device.runtime, entry.logits, over: logits, samples: samples.count)
        try graph.run(
            try batch.values(samples) + [rateValue, numberValue] + tensors[now], into: [lossValue, logits] + tensors[1 - now])
        now = 1 - now
        step += 1
        let found = loss.start.load(as: Float.self)
        guard found.isFinite else {
            let advice = "use a learning rate below \(learningRate), and check the data"
            throw DeviceError(.notFinite, "the loss is \(told(found)) in step \(step): \(advice)")
        }
        return Double(found)
    }
}
