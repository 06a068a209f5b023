import COnnxRuntime

/// Name, data type and shape of an input or output of a graph.
public struct TensorType: Sendable {
    public let name: String
    public let dtype: DataType
    public let shape: [Extent]
    /// Elements of one sample.
    public let elements: Int
    /// Bytes of one sample.
    public let bytes: Int

    /// Length of an axis: fixed, or a multiple of the number of samples.
    public struct Extent: Sendable, Equatable {
        public let count: Int
        public let perSample: Bool

        static let samples = Extent(count: 1, perSample: true)
    }

    /// nil if it is too large.
    init?(name: String, dtype: DataType, shape: [Extent]) {
        var bytes = dtype.width
        for extent in shape {
            let (product, tooMany) = bytes.multipliedReportingOverflow(by: extent.count)
            guard !tooMany, product <= Int.max / 2 else { return nil }
            bytes = product
        }
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.bytes = bytes
        elements = bytes / dtype.width
    }

    func extents(samples: Int) -> [Int] { shape.map { $0.perSample ? times($0.count, samples) : $0.count } }

    /// Bytes for so many samples; constant if there is no axis of samples.
    func bytes(samples: Int) -> Int { shape.contains(where: \.perSample) ? times(bytes, samples) : bytes }

    /// Saturates on overflow, which would end a Swift program; no tensor is as large.
    private func times(_ count: Int, _ samples: Int) -> Int {
        let (product, tooMany) = count.multipliedReportingOverflow(by: samples)
        return tooMany ? Int.max : product
    }

    /// A tensor of one number.
    static func number(_ dtype: DataType) -> TensorType { TensorType(name: "a number", dtype: dtype, shape: [])! }
}

/// Data type of a tensor.
public enum DataType: String, Sendable {
    case float32, float64, float16, int64, int32, int16, int8, uint64, uint32, uint16, uint8, bool

    /// Bytes per number.
    public var width: Int {
        switch self {
        case .float64, .int64, .uint64: return 8
        case .float32, .int32, .uint32: return 4
        case .float16, .int16, .uint16: return 2
        case .int8, .uint8, .bool: return 1
        }
    }

    var onnx: ONNXTensorElementDataType {
        switch self {
        case .float32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
        case .float64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE
        case .float16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
        case .int64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
        case .int32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
        case .int16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16
        case .int8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8
        case .uint64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64
        case .uint32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32
        case .uint16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16
        case .uint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
        case .bool: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL
        }
    }
}
