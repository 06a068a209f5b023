import Foundation

/// A safetensors file from an untrusted source: everything is checked.
struct Safetensors {
    struct Stored {
        let dtype: String
        let shape: [Int]
        let bytes: Range<Int>
    }

    let metadata: [String: String]
    let tensors: [String: Stored]
    private let memory: Memory
    private let dataStart: Int

    var data: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory.bytes[dataStart...]) }

    /// - Parameter most: maximum number of bytes of data.
    init(_ path: String, atMost most: Int) throws {
        memory = try Files.read(path, atMost: most + JSON.mostBytes)
        let bytes = memory.bytes
        let length = bytes.count < 8 ? UInt64.max : UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        guard length <= UInt64(JSON.mostBytes), length <= UInt64(bytes.count - 8) else {
            throw DeviceError(
                .wrongFile, "\(path) is not a safetensors file: \(bytes.count) bytes, with a header of \(length)")
        }
        dataStart = 8 + Int(length)
        let header = try JSON.parse(UnsafeRawBufferPointer(rebasing: bytes[8..<dataStart]), path)
        guard case .object(var items) = header else { throw DeviceError(.wrongFile, "\(path): its header is not an object") }
        metadata = try Self.metadata(items.removeValue(forKey: "__metadata__"), path)
        let dataBytes = bytes.count - dataStart
        tensors = try Dictionary(uniqueKeysWithValues: items.map { name, item in
            guard let stored = Stored(item, dataBytes) else {
                throw DeviceError(.wrongFile, "\(path): '\(short(name))' has no valid dtype, shape and offsets")
            }
            return (name, stored)
        })
        try checkPlaces(path, dataBytes)
    }

    private static func metadata(_ json: JSON?, _ path: String) throws -> [String: String] {
        guard let json else { return [:] }
        guard case .object(let items) = json else { throw DeviceError(.wrongFile, "\(path): its metadata is not an object") }
        return try items.mapValues { value in
            guard case .string(let text) = value else {
                throw DeviceError(.wrongFile, "\(path): its metadata has an item that is not a string")
            }
            return text
        }
    }

    /// Checks that tensors fill the data without gaps and without overlapping.
    private func checkPlaces(_ path: String, _ dataBytes: Int) throws {
        var at = 0
        let ranges = tensors.values.map(\.bytes)
        for range in ranges.sorted(by: { ($0.lowerBound, $0.upperBound) < ($1.lowerBound, $1.upperBound) }) {
            guard range.lowerBound == at else { break }
            at = range.upperBound
        }
        let end = ranges.map(\.upperBound).max() ?? 0
        let total = ranges.reduce(0) { $0 + $1.count }
        guard at == dataBytes, end == dataBytes, total == dataBytes else {
            throw DeviceError(.wrongFile, "\(path): its tensors do not fill its \(dataBytes) bytes of data")
        }
    }
}

extension Safetensors.Stored {
    init?(_ json: JSON, _ dataBytes: Int) {
        guard case .object(let items) = json, case .string(let dtype)? = items["dtype"],
            case .array(let extents)? = items["shape"], case .array(let offsets)? = items["data_offsets"],
            offsets.count == 2, case .number(_, let begin?) = offsets[0], case .number(_, let end?) = offsets[1],
            begin >= 0, end >= begin, end <= dataBytes
        else { return nil }
        let shape = extents.compactMap { extent -> Int? in
            guard case .number(_, let whole?) = extent else { return nil }
            return whole
        }
        guard shape.count == extents.count else { return nil }
        self.init(dtype: dtype, shape: shape, bytes: begin..<end)
    }
}
