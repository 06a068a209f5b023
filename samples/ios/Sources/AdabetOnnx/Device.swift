import Foundation

/// An open device package: score its layers, choose an entry, and make models of it.
///
///     let device = try await Device.open(at: folder)
///     let scores = try await device.score(samples)
///     let entry = try device.choose(scores, memory: 64 << 20).entry
///     let model = try await device.model(entry)
///     try await model.fit(samples) { progress in await pause.passed() }
///     let outputs = try await model.predict(samples)
///     try await model.saveDelta(to: file)
///
/// All errors are `DeviceError`s. *Graphs* are executed by ONNX Runtime: accept packages only from trusted sources.
public final class Device: Sendable {
    public let description: Description
    /// SHA-256 of device.json.
    public let sha256: String
    let folder: String
    let runtime: Runtime

    /// Opens a package; every file is checked against its size and SHA-256.
    ///
    /// - Parameters:
    ///   - folder: the folder of the package.
    ///   - threads: per operator of ONNX Runtime. One is best for small models, and saves energy.
    /// - Throws: `wrongFile`, `wrongHash`, `wrongShape` for damaged files; `runtime` if ONNX Runtime is too old.
    public static func open(at folder: URL, threads: Int = 1) async throws -> Device {
        try Device(folder.path, threads: max(1, threads))
    }

    private init(_ folder: String, threads: Int) throws {
        let text = try Files.read(folder + "/device.json", atMost: JSON.mostBytes)
        sha256 = SHA256Hash.hex(of: text.bytes)
        description = try Description(try JSON.parse(text.bytes, "device.json"))
        self.folder = folder
        for file in description.files { try Self.check(file, in: folder, hashed: !description.selected.contains(file.name)) }
        runtime = try Runtime(needed: description.oldestRuntime, threads: threads)
    }

    private static func check(_ file: PackageFile, in folder: String, hashed: Bool) throws {
        let path = folder + "/" + file.name
        let found = try hashed ? Files.hash(path) : (bytes: Files.size(path), hex: file.sha256)
        guard found.bytes == file.bytes else {
            let expected = "expected \(file.bytes): copy the package again"
            throw DeviceError(.wrongFile, "\(path) has \(found.bytes) bytes; \(expected)")
        }
        guard found.hex == file.sha256 else {
            let expected = "expected \(file.sha256): copy the package again"
            throw DeviceError(.wrongHash, "\(path) has the SHA-256 \(found.hex); \(expected)")
        }
    }

    public var runtimeVersion: String { runtime.version }

    /// The entry of this name.
    public func entry(_ name: String) throws -> Entry {
        guard let entry = description.entries.first(where: { $0.name == name }) else {
            let known = description.entries.map { "'\(short($0.name))'" }.joined(separator: ", ")
            throw DeviceError(.usage, "there is no entry '\(short(name))'; the package has \(known)")
        }
        return entry
    }

    /// An entry with the package's initial values.
    public func model(_ name: String) async throws -> Model {
        let entry = try entry(name)
        return try Model(self, entry, try initialState(entry))
    }

    /// Loads a delta or a progress file of this package.
    ///
    /// - Throws: `wrongModel` if it belongs to another model or entry; `wrongFile`, `wrongHash`, `wrongShape`,
    ///   `notFinite` for damaged files.
    public func model(from file: URL) async throws -> Model {
        let (entry, isProgress) = try Saved.look(into: file.path, self)
        let state = try initialState(entry)
        let place = try Saved.restore(file.path, self, entry, into: state, progress: isProgress)
        return try Model(self, entry, state, place)
    }

    /// Memory with the layout of the state and the initial values.
    func initialState(_ entry: Entry) throws -> Memory {
        let path = folder + "/" + entry.state.name, file = try MappedFile(path)
        guard file.bytes.count == entry.state.bytes, SHA256Hash.hex(of: file.bytes) == entry.state.sha256 else {
            throw DeviceError(.wrongHash, "\(path) was changed after the package was opened")
        }
        let state = try Memory(entry.stateBytes, for: "the trained values", zeroed: true)
        if let start = file.bytes.baseAddress { state.start.copyMemory(from: start, byteCount: entry.selectedBytes) }
        return state
    }

    func graph(_ file: PackageFile, ins: [Slot], outs: [Slot]) throws -> Graph {
        try Graph(runtime, folder, file, ins: ins, outs: outs)
    }

    func checkCancelled(_ doing: String) throws {
        guard !Task.isCancelled else { throw DeviceError(.cancelled, "\(doing) was stopped") }
    }
}
