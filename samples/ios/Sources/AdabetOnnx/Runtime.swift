import COnnxRuntime

/// Access to ONNX Runtime through version 17 of its C API, which later releases have too.
final class Runtime: @unchecked Sendable {  // immutable after init, and ONNX Runtime is thread-safe
    private static let apiVersion: UInt32 = 17
    private static let oldest = "1.17"

    let api: UnsafePointer<OrtApi>
    let version: String
    private var environment: OpaquePointer?
    private var options: OpaquePointer?
    private var cpu: OpaquePointer?

    /// - Parameters:
    ///   - needed: the oldest release that the package names.
    ///   - threads: per operator.
    init(needed: String, threads: Int) throws {
        let base = OrtGetApiBase()!
        version = String(cString: base.pointee.GetVersionString()!)
        let wanted = newEnough(Self.oldest, for: needed) ? Self.oldest : needed
        guard newEnough(version, for: wanted), let api = base.pointee.GetApi(Self.apiVersion) else {
            throw DeviceError(.runtime, "this is ONNX Runtime \(version); the package needs \(short(wanted)) or newer")
        }
        self.api = api
        try check("start", api.pointee.CreateEnv(ORT_LOGGING_LEVEL_FATAL, "adabet", &environment))
        try check("options", api.pointee.CreateSessionOptions(&options))
        try check("threads", api.pointee.SetIntraOpNumThreads(options, Int32(clamping: threads)))
        try check("threads", api.pointee.SetInterOpNumThreads(options, 1))
        try check("log level", api.pointee.SetSessionLogSeverityLevel(options, Int32(ORT_LOGGING_LEVEL_FATAL.rawValue)))
        try check("memory", api.pointee.DisableMemPattern(options))  // otherwise one more block as large as a run
        try check("memory", api.pointee.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &cpu))
    }

    deinit {
        api.pointee.ReleaseMemoryInfo(cpu)
        api.pointee.ReleaseSessionOptions(options)
        api.pointee.ReleaseEnv(environment)
    }

    /// Throws the error of a call of ONNX Runtime.
    func check(_ what: String, _ status: OrtStatusPtr?) throws {
        guard let status else { return }
        let said = String(cString: api.pointee.GetErrorMessage(status)!)
        api.pointee.ReleaseStatus(status)
        let signs = ["bad_alloc", "Failed to allocate memory", "out of memory"]
        guard !signs.contains(where: { said.contains($0) }) else {
            throw DeviceError(.noMemory, "ONNX Runtime is out of memory, \(what): \(said). Use a smaller batch size")
        }
        throw DeviceError(.runtime, "ONNX Runtime, \(what): \(said)")
    }

    /// A graph; the file with its weights is next to it and is memory-mapped.
    func session(_ path: String, _ name: String) throws -> OpaquePointer {
        var session: OpaquePointer?
        try check(name, api.pointee.CreateSession(environment, path, options, &session))
        return session!
    }

    fileprivate func tensor(_ type: TensorType, _ start: UnsafeMutableRawPointer, _ samples: Int) throws -> OpaquePointer {
        let shape = type.extents(samples: samples).map { Int64($0) }
        var made: OpaquePointer?
        try check(
            type.name,
            api.pointee.CreateTensorWithDataAsOrtValue(
                cpu, start, type.bytes(samples: samples), shape, shape.count, type.dtype.onnx, &made))
        return made!
    }
}

/// Whether a version, such as 1.30.0, is at least another, such as 1.17.
func newEnough(_ version: String, for needed: String) -> Bool {
    func parts(_ text: String) -> [Int] {
        text.split(separator: ".").prefix(2).map { Int($0.prefix { $0.isASCII && $0.isNumber }) ?? 0 }
    }
    let have = parts(version), want = parts(needed)
    return !have.lexicographicallyPrecedes(want)
}

/// A tensor of ONNX Runtime, and its memory.
final class Value {
    let pointer: OpaquePointer
    private let runtime: Runtime
    private let memory: Memory?

    /// Over the caller's memory; with so many samples if it has an axis of samples.
    init(_ runtime: Runtime, _ type: TensorType, over memory: Memory, at offset: Int = 0, samples: Int = 1) throws {
        precondition(offset >= 0 && type.bytes(samples: samples) <= memory.count - offset)
        pointer = try runtime.tensor(type, memory.start + offset, samples)
        self.runtime = runtime
        self.memory = memory
    }

    /// A tensor that ONNX Runtime created.
    fileprivate init(_ runtime: Runtime, taking pointer: OpaquePointer) {
        self.pointer = pointer
        self.runtime = runtime
        memory = nil
    }

    deinit { runtime.api.pointee.ReleaseValue(pointer) }

    /// Shape and bytes; throws if data type or shape differ from this type.
    func withBytes<T>(_ type: TensorType, samples: Int, _ body: (UnsafeRawBufferPointer) throws -> T) throws -> T {
        try withBytes(type.name, type.dtype, body: { bytes, shape in
            guard shape == type.extents(samples: samples) else {
                throw DeviceError(
                    .wrongShape, "'\(short(type.name))' has the shape \(shape); expected \(type.extents(samples: samples))")
            }
            return try body(bytes)
        })
    }

    /// Its bytes and its shape; throws if it has another data type.
    func withBytes<T>(
        _ name: String, _ dtype: DataType, body: (UnsafeRawBufferPointer, [Int]) throws -> T
    ) throws -> T {
        let api = runtime.api
        var info: OpaquePointer?
        var found = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
        var rank = 0
        try runtime.check(name, api.pointee.GetTensorTypeAndShape(pointer, &info))
        defer { api.pointee.ReleaseTensorTypeAndShapeInfo(info) }
        try runtime.check(name, api.pointee.GetTensorElementType(info, &found))
        try runtime.check(name, api.pointee.GetDimensionsCount(info, &rank))
        var shape = [Int64](repeating: 0, count: rank)
        try runtime.check(name, api.pointee.GetDimensions(info, &shape, rank))
        guard found == dtype.onnx else {
            throw DeviceError(
                .wrongShape, "'\(short(name))' has ONNX's data type \(found.rawValue); expected \(dtype.rawValue)")
        }
        var start: UnsafeMutableRawPointer?
        try runtime.check(name, api.pointee.GetTensorMutableData(pointer, &start))
        let count = shape.reduce(dtype.width) { $0 * Int($1) }
        return try withExtendedLifetime(self) {
            try body(UnsafeRawBufferPointer(start: start, count: count), shape.map { Int($0) })
        }
    }
}

/// A possible input or output of a graph.
struct Slot {
    let name: String
    let dtype: DataType

    init(_ name: String, _ dtype: DataType) {
        self.name = name
        self.dtype = dtype
    }

    init(_ type: TensorType) { self.init(type.name, type.dtype) }
}

/// A graph that takes those of the input slots that it has, and returns the output slots.
final class Graph {
    private let runtime: Runtime
    private let file: String
    private let session: OpaquePointer
    /// Names of the inputs that it has, and of the requested outputs.
    private var inputs: [UnsafeMutablePointer<CChar>] = []
    private var outputs: [UnsafeMutablePointer<CChar>] = []
    /// The slot of each input.
    private var slots: [Int] = []

    init(_ runtime: Runtime, _ folder: String, _ file: PackageFile, ins: [Slot], outs: [Slot]) throws {
        self.runtime = runtime
        self.file = file.name
        session = try runtime.session(folder + "/" + file.name, file.name)
        try takeInputs(ins)
        try takeOutputs(outs)
    }

    deinit {
        (inputs + outputs).forEach { $0.deallocate() }
        runtime.api.pointee.ReleaseSession(session)
    }

    private func takeInputs(_ ins: [Slot]) throws {
        let api = runtime.api
        for (place, name) in try names(api.pointee.SessionGetInputCount, api.pointee.SessionGetInputName).enumerated() {
            guard let slot = ins.firstIndex(where: { $0.name == name }) else {
                throw DeviceError(
                    .wrongFile, "\(file) has an input '\(short(name))' that device.json does not list")
            }
            try checkType(ins[slot], place, api.pointee.SessionGetInputTypeInfo)
            inputs.append(copied(name))
            slots.append(slot)
        }
    }

    private func takeOutputs(_ outs: [Slot]) throws {
        let api = runtime.api
        let found = try names(api.pointee.SessionGetOutputCount, api.pointee.SessionGetOutputName)
        for slot in outs {
            guard let place = found.firstIndex(of: slot.name) else {
                throw DeviceError(
                    .wrongFile, "\(file) has no output '\(short(slot.name))', which device.json lists")
            }
            try checkType(slot, place, api.pointee.SessionGetOutputTypeInfo)
            outputs.append(copied(slot.name))
        }
    }

    private typealias Count = @convention(c) (OpaquePointer?, UnsafeMutablePointer<Int>?) -> OrtStatusPtr?
    private typealias Name = @convention(c) (
        OpaquePointer?, Int, UnsafeMutablePointer<OrtAllocator>?, UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
    ) -> OrtStatusPtr?
    private typealias TypeInfo = @convention(c) (
        OpaquePointer?, Int, UnsafeMutablePointer<OpaquePointer?>?
    ) -> OrtStatusPtr?

    private func names(_ count: Count, _ name: Name) throws -> [String] {
        var allocator: UnsafeMutablePointer<OrtAllocator>?
        var found = 0
        try runtime.check(file, runtime.api.pointee.GetAllocatorWithDefaultOptions(&allocator))
        try runtime.check(file, count(session, &found))
        return try (0..<found).map { place in
            var text: UnsafeMutablePointer<CChar>?
            try runtime.check(file, name(session, place, allocator, &text))
            defer { allocator?.pointee.Free(allocator, text) }
            return String(cString: text!)
        }
    }

    private func checkType(_ slot: Slot, _ place: Int, _ info: TypeInfo) throws {
        let api = runtime.api
        var type: OpaquePointer?
        var tensor: OpaquePointer?
        var found = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
        try runtime.check(file, info(session, place, &type))
        defer { api.pointee.ReleaseTypeInfo(type) }
        try runtime.check(file, api.pointee.CastTypeInfoToTensorInfo(type, &tensor))
        if tensor != nil { try runtime.check(file, api.pointee.GetTensorElementType(tensor, &found)) }
        guard found == slot.dtype.onnx else {
            let expected = "expected \(slot.dtype.rawValue)"
            throw DeviceError(
                .wrongShape, "\(file): '\(short(slot.name))' has ONNX's data type \(found.rawValue); \(expected)")
        }
    }

    private func copied(_ text: String) -> UnsafeMutablePointer<CChar> {
        let bytes = text.utf8CString, made = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count)
        bytes.withUnsafeBufferPointer { made.initialize(from: $0.baseAddress!, count: $0.count) }
        return made
    }

    /// Runs the graph.
    ///
    /// - Parameters:
    ///   - ins: the value of each slot.
    ///   - outs: the tensor to write for each slot; ONNX Runtime creates those that are nil.
    @discardableResult
    func run(_ ins: [Value], into outs: [Value?]) throws -> [Value] {
        let fed = slots.map { Optional(ins[$0].pointer) }
        var given = outs.map { $0?.pointer }
        try withExtendedLifetime((ins, outs)) {
            let names = inputs.map { Optional(UnsafePointer($0)) }, wanted = outputs.map { Optional(UnsafePointer($0)) }
            try runtime.check(
                file,
                runtime.api.pointee.Run(session, nil, names, fed, fed.count, wanted, wanted.count, &given))
        }
        return zip(outs, given).map { out, pointer in out ?? Value(runtime, taking: pointer!) }
    }
}
