import Foundation

/// Deltas and progress, as docs/device-package.md describes them.
enum Saved {
    private static let delta = "adabet-onnx/delta"
    private static let progress = "adabet-onnx/progress"

    // MARK: - Writing

    /// - Parameters:
    ///   - state: memory with the layout of the entry's state.
    ///   - place: the position, for progress; nil for a delta.
    static func save(_ path: String, _ device: Device, _ entry: Entry, _ state: Memory, _ place: Place?) throws {
        let tensors = place == nil ? Array(entry.kept) : entry.tensors
        let parts = tensors.map { UnsafeRawBufferPointer(start: state.start + $0.offset, count: $0.type.bytes) }
        var hash = SHA256Hash()
        parts.forEach { hash.update($0) }
        var metadata = [
            ("format", place == nil ? delta : progress), ("version", "1"),
            ("model_sha256", device.description.modelSHA256), ("entry", entry.name), ("sha256", hash.hex()),
        ]
        if let place {
            metadata.append(("package", device.sha256))
            metadata.append(("epoch", String(place.epoch)))
            metadata.append(("step", String(place.step)))
            metadata.append(("seed", String(place.seed)))
            metadata.append(("batch_size", String(place.batchSize)))
        }
        let header = Array(header(metadata, tensors).utf8)
        try withExtendedLifetime(state) {
            try withUnsafeBytes(of: UInt64(header.count).littleEndian) { length in
                try header.withUnsafeBytes { try Files.store([length, $0] + parts, to: path) }
            }
        }
    }

    private static func header(_ metadata: [(String, String)], _ tensors: [StateTensor]) -> String {
        let pairs = metadata.map { quoted($0) + ":" + quoted($1) }
        var items = [quoted("__metadata__") + ":{" + pairs.joined(separator: ",") + "}"]
        var at = 0
        for tensor in tensors {
            let shape = tensor.type.shape.map { String($0.count) }.joined(separator: ",")
            let end = at + tensor.type.bytes
            items.append("\(quoted(tensor.type.name)):{\"dtype\":\"F32\",\"shape\":[\(shape)],\"data_offsets\":[\(at),\(end)]}")
            at = end
        }
        let text = "{" + items.joined(separator: ",") + "}"
        let rest = (text.utf8.count + 8) % 64  // aligns the data
        return text + String(repeating: " ", count: rest == 0 ? 0 : 64 - rest)
    }

    private static func quoted(_ text: String) -> String {
        var made = "\""
        for scalar in text.unicodeScalars {
            if scalar == "\"" || scalar == "\\" {
                made += "\\" + String(scalar)
            } else if scalar.value < 0x20 {
                let hex = String(scalar.value, radix: 16)
                made += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            } else {
                made.unicodeScalars.append(scalar)
            }
        }
        return made + "\""
    }

    // MARK: - Reading

    /// The entry that a file belongs to, and whether it is a progress file.
    static func look(into path: String, _ device: Device) throws -> (entry: Entry, isProgress: Bool) {
        let most = device.description.entries.map(\.dataBytes).max() ?? 0
        let file = try Safetensors(path, atMost: most)
        try file.expect("model_sha256", device.description.modelSHA256, path)
        let name = file.metadata["entry"] ?? ""
        guard let entry = device.description.entries.first(where: { $0.name == name }) else {
            throw DeviceError(.wrongModel, "\(path) is for the entry '\(short(name))', which the package does not have")
        }
        return (entry, file.metadata["format"] == progress)
    }

    /// Reads the values of a file into memory with the layout of the state.
    ///
    /// - Returns: the position in training, for progress.
    @discardableResult
    static func restore(
        _ path: String, _ device: Device, _ entry: Entry, into state: Memory, progress isProgress: Bool
    ) throws -> Place? {
        let file = try Safetensors(path, atMost: entry.dataBytes)
        try file.expect("format", isProgress ? progress : delta, path)
        try file.expect("version", "1", path)
        try file.expect("model_sha256", device.description.modelSHA256, path)
        try file.expect("entry", entry.name, path)
        if isProgress { try file.expect("package", device.sha256, path) }
        let place = try isProgress ? file.place(path) : nil
        try file.checkHash(path)
        let tensors = isProgress ? entry.tensors[...] : entry.kept
        guard file.tensors.count == tensors.count else {
            throw DeviceError(
                .wrongShape, "\(path) has \(file.tensors.count) tensors; expected \(tensors.count)")
        }
        for tensor in tensors { try file.take(tensor, into: state, path) }
        if let name = notFinite(tensors, in: state) {
            throw DeviceError(.notFinite, "\(path): '\(short(name))' is not finite")
        }
        return place
    }
}

extension Entry {
    /// Bytes of all tensors, one after another.
    fileprivate var dataBytes: Int { tensors.reduce(0) { $0 + $1.type.bytes } }
}

extension Safetensors {
    fileprivate func expect(_ key: String, _ expected: String, _ path: String) throws {
        let found = metadata[key]
        guard found == expected else {
            throw DeviceError(
                .wrongModel, "\(path): '\(key)' is \(short(found ?? "missing")); expected \(short(expected))")
        }
    }

    fileprivate func place(_ path: String) throws -> Place {
        func number(_ key: String) throws -> Int {
            let text = metadata[key] ?? ""
            guard (1...18).contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
                let number = Int(text)
            else { throw DeviceError(.wrongFile, "\(path): '\(key)' is '\(short(text))'; expected a decimal number") }
            return number
        }
        return Place(
            epoch: try number("epoch"), step: try number("step"), seed: try number("seed"),
            batchSize: try number("batch_size"))
    }

    fileprivate func checkHash(_ path: String) throws {
        let found = SHA256Hash.hex(of: data), expected = metadata["sha256"] ?? "one in its metadata"
        guard found == expected else {
            throw DeviceError(
                .wrongHash, "\(path): its data has the SHA-256 \(found); expected \(short(expected))")
        }
    }

    fileprivate func take(_ tensor: StateTensor, into state: Memory, _ path: String) throws {
        let name = tensor.type.name, shape = tensor.type.shape.map(\.count)
        guard let stored = tensors[name], stored.dtype == "F32", stored.shape == shape,
            stored.bytes.count == tensor.type.bytes
        else {
            let found = tensors[name].map { "is \(short($0.dtype)) of shape \($0.shape)" } ?? "is missing"
            throw DeviceError(.wrongShape, "\(path): '\(short(name))' \(found); expected F32 of shape \(shape)")
        }
        (state.start + tensor.offset).copyMemory(
            from: data.baseAddress! + stored.bytes.lowerBound, byteCount: stored.bytes.count)
    }
}
