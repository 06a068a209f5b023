/// The checked content of device.json; see docs/device-package.md for its keys.
public struct Description: Sendable {
    /// The model's name.
    public let model: String
    public let modelSHA256: String
    public let oldestRuntime: String
    public let inputs: [TensorType]
    public let outputs: [TensorType]
    public let labels: Labels
    public let classNames: [String]?
    public let preprocessing: Preprocessing?
    public let start: Start
    public let scoring: ScoringPlan?
    /// The choices of layers; at least one.
    public let entries: [Entry]
    let files: [PackageFile]
    /// The batch size of graphs without training; nil for any.
    let forwardBatch: Int?

    public struct Labels: Sendable {
        public let type: TensorType
        /// nil if the loss has no classes.
        public let classes: Int?
        /// A label that is ignored.
        public let ignored: Int?
    }

    /// Default training options.
    public struct Start: Sendable {
        public let learningRate: Double
        public let batchSize: Int
        public let epochs: Int
        public let seed: UInt32
    }
}

/// Input = (x * scale - mean) / std for each channel.
public struct Preprocessing: Sendable {
    public let scale: Float
    /// One number, or one for each channel.
    public let mean: [Float]
    public let std: [Float]
    public let channelAxis: Int?
    /// Pictures are fed as blue, green, red.
    public let bgr: Bool
}

public struct ScoringPlan: Sendable {
    let file: PackageFile
    /// Maximum number of samples used.
    public let samples: Int
    let points: Int
    let subsets: Int
    let seed: UInt32
    let layers: [ScoredLayer]
}

struct ScoredLayer: Sendable {
    let name: String
    let output: String
    /// Elements of one sample in that output.
    let numbers: Int
    /// Elements of its activation.
    let size: Int
}

struct PackageFile: Sendable {
    let name: String
    let bytes: Int
    let sha256: String
}

/// One choice of layers.
public struct Entry: Sendable {
    public let name: String
    /// Names of the layers that are trained.
    public let layers: [String]
    /// Number of trained values.
    public let trained: Int
    /// Size of the trained tensors in bytes.
    public let selectedBytes: Int
    let frozen: PackageFile?
    let step: PackageFile
    let evaluation: PackageFile
    let prediction: PackageFile
    let state: PackageFile
    let selected: PackageFile
    let boundary: [Boundary]
    let names: Names
    let logits: TensorType
    let classAxis: Int?
    let tensors: [StateTensor]
    let memory: [MemoryPair]

    struct Names: Sendable {
        let labels, learningRate, step, loss, logits: String
    }

    /// Parameters and statistics, which come first.
    var kept: ArraySlice<StateTensor> { tensors.prefix { $0.kind != .optimizer } }

    /// Bytes of all tensors at their offsets.
    var stateBytes: Int { max(tensors.last.map { $0.offset + $0.type.bytes } ?? 0, selectedBytes) }
}

/// An input of training steps.
struct Boundary: Sendable {
    let type: TensorType
    /// Index of the model's input it equals; nil if the frozen graph computes it.
    let input: Int?
}

/// A tensor that changes in training.
struct StateTensor: Sendable {
    enum Kind: String, Sendable, Comparable {
        case parameter, statistic, optimizer

        private var place: Int { self == .parameter ? 0 : self == .statistic ? 1 : 2 }
        static func < (one: Kind, other: Kind) -> Bool { one.place < other.place }
    }

    let type: TensorType
    let kind: Kind
    let input: String
    let output: String
    let offset: Int
}

/// Bytes that training needs at a batch size.
struct MemoryPair: Sendable {
    let batch: Int
    let bytes: Int
}
