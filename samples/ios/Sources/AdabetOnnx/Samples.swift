import Foundation

/// Samples in the form of the model's input, one after another, little-endian; and labels if they are needed.
public struct Samples: Sendable {
    /// For each of the model's inputs, in the order of the package. Memory-mapped data is not copied.
    public var inputs: [Data]
    public var labels: Labels?

    public enum Labels: Sendable {
        /// Whole numbers: classes from 0 on, one for each label of each sample.
        case classes([Int])
        /// Real numbers, if the loss has no classes.
        case numbers([Float])
        /// Raw bytes in the package's data type.
        case bytes(Data)
    }

    public init(inputs: [Data], labels: Labels? = nil) {
        self.inputs = inputs
        self.labels = labels
    }

    /// For a model with one float32 input.
    public init(_ numbers: [Float], classes: [Int]? = nil) {
        self.init(inputs: [numbers.withUnsafeBytes { Data($0) }], labels: classes.map { .classes($0) })
    }
}

/// Samples checked against the model.
struct CheckedSamples {
    let inputs: [Data]
    /// In the package's data type; empty if none were requested.
    let labels: Data
    let count: Int

    /// - Parameters:
    ///   - labelled: whether labels are needed.
    ///   - what: name of the samples in messages.
    init(_ samples: Samples, _ description: Description, labelled: Bool, _ what: String) throws {
        let types = description.inputs
        guard samples.inputs.count == types.count else {
            let found = "there are \(samples.inputs.count) input arrays"
            throw DeviceError(.usage, "\(what): \(found); the model takes \(types.count)")
        }
        let counts = try zip(samples.inputs, types).map { try countSamples($0.count, $1, what) }
        let count = counts[0]
        for (type, other) in zip(types, counts) where other != count {
            throw DeviceError(
                .wrongShape,
                "\(what): '\(short(type.name))' has \(other) samples; '\(short(types[0].name))' has \(count)")
        }
        guard count > 0 else { throw DeviceError(.tooFew, "\(what): there are no samples") }
        inputs = samples.inputs
        self.count = count
        labels = labelled ? try checkedLabels(samples.labels, description.labels, count, what) : Data()
    }

    /// Copies samples of an input, which have so many bytes each.
    func copy(input: Int, sample: Int, bytes: Int, count: Int = 1, to place: UnsafeMutableRawPointer) {
        inputs[input].withUnsafeBytes {
            place.copyMemory(from: $0.baseAddress! + sample * bytes, byteCount: count * bytes)
        }
    }
}

private func countSamples(_ bytes: Int, _ type: TensorType, _ what: String) throws -> Int {
    guard bytes % type.bytes == 0 else {
        let one = "a sample (\(type.elements) of \(type.dtype.rawValue)) has \(type.bytes)"
        throw DeviceError(
            .wrongShape,
            "\(what): '\(short(type.name))' has \(bytes) bytes; \(one), expected a multiple of that")
    }
    return bytes / type.bytes
}

private func checkedLabels(
    _ given: Samples.Labels?, _ rule: Description.Labels, _ count: Int, _ what: String
) throws -> Data {
    guard let given else { throw DeviceError(.usage, "\(what): the array for 'labels' is missing") }
    let labels = try encoded(given, rule.type, what)
    let found = try countSamples(labels.count, rule.type, what)
    guard found == count else {
        throw DeviceError(.wrongShape, "\(what): there are labels for \(found) samples, but \(count) samples")
    }
    try labels.withUnsafeBytes { bytes in
        for place in 0..<count * rule.type.elements { try checkLabel(bytes, place, rule, what) }
    }
    return labels
}

private func encoded(_ labels: Samples.Labels, _ type: TensorType, _ what: String) throws -> Data {
    func data<T>(_ numbers: [T]) -> Data { numbers.withUnsafeBytes { Data($0) } }
    switch (labels, type.dtype) {
    case (.bytes(let bytes), _): return bytes
    case (.classes(let classes), .int64): return data(classes.map { Int64($0) })
    case (.classes(let classes), .int32): return data(classes.map { Int32(clamping: $0) })
    case (.classes(let classes), .float32): return data(classes.map { Float($0) })
    case (.numbers(let numbers), .float32): return data(numbers)
    default:
        throw DeviceError(.wrongShape, "\(what): labels are \(type.dtype.rawValue); give them as bytes, or as classes")
    }
}

private func checkLabel(_ bytes: UnsafeRawBufferPointer, _ place: Int, _ rule: Description.Labels, _ what: String) throws {
    if let label = wholeLabel(bytes, place, rule.type.dtype) {
        guard let classes = rule.classes, label != rule.ignored else { return }
        guard label >= 0 && label < classes else {
            throw DeviceError(
                .wrongLabel, "\(what): label \(place) is \(label); expected 0 to \(classes - 1)")
        }
    } else if rule.type.dtype == .float32 {
        let label = bytes.loadUnaligned(fromByteOffset: 4 * place, as: Float.self)
        guard label.isFinite else {
            throw DeviceError(.wrongLabel, "\(what): label \(place) is \(told(label)); expected a finite number")
        }
    }
}

/// A label as a class; nil if labels are not classes.
func wholeLabel(_ bytes: UnsafeRawBufferPointer, _ place: Int, _ dtype: DataType) -> Int? {
    switch dtype {
    case .int64: return Int(bytes.loadUnaligned(fromByteOffset: 8 * place, as: Int64.self))
    case .int32: return Int(bytes.loadUnaligned(fromByteOffset: 4 * place, as: Int32.self))
    default: return nil
    }
}
