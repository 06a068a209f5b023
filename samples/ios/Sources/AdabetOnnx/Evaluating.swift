import Foundation

/// Loss and accuracy on held-out samples.
public struct Evaluation: Sendable {
    /// Mean loss over the labels that count; NaN if there are none.
    public let loss: Double
    /// Share of correct predictions among the labels that count; nil if the loss has no classes.
    public let accuracy: Double?
}

/// Held-out samples, their features, and the graph that evaluates them.
final class EvaluationRun {
    private let device: Device
    private let entry: Entry
    private let graph: Graph
    private let batch: Batch
    private let samples: CheckedSamples
    private let loss, logits: Memory
    private let lossValue: Value

    init(_ device: Device, _ entry: Entry, _ samples: Samples, batchSize: Int, _ what: String) throws {
        self.device = device
        self.entry = entry
        let checked = try CheckedSamples(samples, device.description, labelled: true, what)
        let features = try Features(device, entry, checked), size = min(batchSize, checked.count)
        self.samples = checked
        batch = try Batch(device, entry, features, checked.labels, size: size)
        logits = try Memory(size, times: entry.logits.bytes, for: "logits")
        loss = try Memory(4, for: "a loss")
        lossValue = try Value(device.runtime, .number(.float32), over: loss)
        let ins =
            entry.boundary.map { Slot($0.type) } + [Slot(entry.names.labels, device.description.labels.type.dtype)]
            + entry.kept.map { Slot($0.input, .float32) }
        let outs = [Slot(entry.names.loss, .float32), Slot(entry.names.logits, .float32)]
        graph = try device.graph(entry.evaluation, ins: ins, outs: outs)
    }

    func evaluate(_ state: [Value]) throws -> Evaluation {
        var sum = 0.0, weight = 0, right = 0
        let countsRight = hasAccuracy
        for first in stride(from: 0, to: samples.count, by: batch.size) {
            try device.checkCancelled("evaluating")
            let rows = first..<min(first + batch.size, samples.count)
            let values = try batch.values(rows)
            let logits = try Value(device.runtime, entry.logits, over: logits, samples: rows.count)
            try graph.run(values + state, into: [lossValue, logits])
            let counted = countedLabels(rows.count)
            if counted > 0 { sum += Double(loss.start.load(as: Float.self)) * Double(counted) }
            weight += counted
            if countsRight { right += rightLabels(rows.count) }
        }
        let accuracy = countsRight && weight > 0 ? Double(right) / Double(weight) : nil
        return Evaluation(loss: weight > 0 ? sum / Double(weight) : .nan, accuracy: accuracy)
    }

    /// Whether labels are classes, one for each row of logits.
    private var hasAccuracy: Bool {
        let labels = device.description.labels.type
        guard let axis = entry.classAxis, labels.dtype == .int64 || labels.dtype == .int32 else { return false }
        return entry.logits.elements / entry.logits.shape[axis].count == labels.elements
    }

    private func label(_ place: Int) -> Int? { wholeLabel(batch.labelBytes, place, device.description.labels.type.dtype) }

    private func counts(_ place: Int) -> Bool {
        guard let ignored = device.description.labels.ignored, let label = label(place) else { return true }
        return label != ignored
    }

    private func countedLabels(_ count: Int) -> Int {
        (0..<count * device.description.labels.type.elements).filter(counts).count
    }

    private func rightLabels(_ count: Int) -> Int {
        guard let axis = entry.classAxis else { return 0 }
        let shape = entry.logits.shape, classes = shape[axis].count
        let inner = shape[(axis + 1)...].reduce(1) { $0 * $1.count }
        let numbers = logits.start.assumingMemoryBound(to: Float.self)
        return (0..<count * device.description.labels.type.elements).filter { place in
            let row = numbers + (place / inner * inner * classes + place % inner)
            var best = 0
            for other in 1..<max(1, classes) where row[other * inner] > row[best * inner] { best = other }
            return counts(place) && label(place) == best
        }.count
    }
}
