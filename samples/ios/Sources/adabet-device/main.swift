// adabet-device PACKAGE COMMAND [OPTIONS]: the library as a command line program, with raw little-endian files as data.
//
//   show                                                describes the package
//   score   --x FILE [--memory BYTES] [--batch N]       scores the layers and chooses an entry
//   fit     --x FILE --y FILE [--entry NAME] [--rate R] [--batch N] [--epochs N] [--seed N] [--progress FILE]
//           [--held-x FILE --held-y FILE] [--delta FILE] [--selected FILE] [--stop STEP]
//   predict --x FILE --out FILE [--from FILE]           with a delta or progress file, or initial values
//   save    --from FILE [--delta FILE] [--selected FILE]
//
// With --raw yes, the numbers of --x and --held-x, such as float32 pixels from 0 to 255, are preprocessed as the
// package defines. For a model with several inputs, give --x (and --held-x) once for each; for several outputs, --out.
// --threads N sets the threads of ONNX Runtime. fit prints the loss of each step, and a line for each epoch. The exit
// status is 0 if there was no error.

import AdabetOnnx
import Foundation

/// The parsed command line.
struct Arguments {
    let package: URL
    let command: String
    private var options: [String: [String]] = [:]

    private static let known: Set<String> = [
        "x", "y", "held-x", "held-y", "out", "entry", "progress", "delta", "selected", "from", "memory", "stop", "raw",
        "rate", "batch", "epochs", "seed", "threads",
    ]

    init(_ words: [String]) throws {
        guard words.count >= 2 else { throw Usage("adabet-device PACKAGE show|score|fit|predict|save [OPTIONS]") }
        package = URL(fileURLWithPath: words[0])
        command = words[1]
        for place in stride(from: 2, to: words.count, by: 2) {
            let name = String(words[place].dropFirst(2))
            guard words[place].hasPrefix("--"), Self.known.contains(name) else {
                throw Usage("\(words[place]) is not an option")
            }
            guard place + 1 < words.count else { throw Usage("\(words[place]) needs a value") }
            options[name, default: []].append(words[place + 1])
        }
    }

    subscript(_ name: String) -> String? { options[name]?.last }

    func file(_ name: String) -> URL? { self[name].map { URL(fileURLWithPath: $0) } }
    func files(_ name: String) -> [URL] { (options[name] ?? []).map { URL(fileURLWithPath: $0) } }

    func number<T: LosslessStringConvertible>(_ name: String, _ type: T.Type) throws -> T? {
        guard let text = self[name] else { return nil }
        guard let number = T(text) else { throw Usage("--\(name) needs a number, not '\(text)'") }
        return number
    }
}

struct Usage: Error, CustomStringConvertible {
    let description: String
    init(_ message: String) { description = "usage: " + message }
}

func mapped(_ file: URL) throws -> Data {
    do {
        return try Data(contentsOf: file, options: .mappedIfSafe)
    } catch {
        throw Usage("\(file.path) cannot be read")
    }
}

func samples(_ device: Device, _ arguments: Arguments, _ x: String, _ y: String? = nil) throws -> Samples? {
    var inputs = try arguments.files(x).map(mapped)
    guard !inputs.isEmpty else { return nil }
    if arguments["raw"] != nil {
        for input in inputs.indices {
            var numbers = inputs[input].withUnsafeBytes { bytes in
                (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
            }
            try device.preprocess(&numbers, input: input)
            inputs[input] = numbers.withUnsafeBytes { Data($0) }
        }
    }
    let labels = try y.flatMap { arguments.file($0) }.map { Samples.Labels.bytes(try mapped($0)) }
    return Samples(inputs: inputs, labels: labels)
}

func needed(_ samples: Samples?, _ option: String) throws -> Samples {
    guard let samples else { throw Usage("--\(option) is missing") }
    return samples
}

func text(_ shape: [TensorType.Extent]) -> String {
    let parts = shape.map { !$0.perSample ? "\($0.count)" : $0.count == 1 ? "N" : "\($0.count)*N" }
    return "[" + parts.joined(separator: ", ") + "]"
}

func show(_ device: Device) {
    let description = device.description
    print("model \(description.model)\nonnxruntime \(device.runtimeVersion)")
    for type in description.inputs { print("input \(type.name) \(type.dtype.rawValue) \(text(type.shape))") }
    for type in description.outputs { print("output \(type.name) \(type.dtype.rawValue) \(text(type.shape))") }
    print("labels \(description.labels.type.dtype.rawValue) \(text(description.labels.type.shape))")
    for entry in description.entries {
        let size = "\(entry.trained) numbers, \(entry.selectedBytes) bytes to send"
        print("entry \(entry.name): \(entry.layers.count) layers, \(size)")
        for layer in entry.layers { print("  \(layer)") }
    }
}

func score(_ device: Device, _ arguments: Arguments) async throws {
    let scores = try await device.score(try needed(try samples(device, arguments, "x"), "x"))
    for layer in scores.layers { print(String(format: "%.17g", layer.score), layer.name) }
    let choice = try device.choose(
        scores, memory: try arguments.number("memory", Int.self), batchSize: try arguments.number("batch", Int.self))
    print("choice \(choice.entry)")
}

func tell(_ progress: TrainingProgress, stop: Int?) {
    if progress.epochDone {
        var line = "epoch \(progress.epoch) loss " + String(format: "%.9g", progress.loss)
        if let found = progress.heldOut {
            line += " held-out loss " + String(format: "%.9g", found.loss)
            if let accuracy = found.accuracy { line += " accuracy " + String(format: "%.17g", accuracy) }
        }
        print(line)
    } else {
        print(String(format: "%.9g", progress.loss))
        if progress.step == stop { withUnsafeCurrentTask { $0?.cancel() } }
    }
    fflush(nil)
}

func fit(_ device: Device, _ arguments: Arguments) async throws {
    let stop = try arguments.number("stop", Int.self)
    let options = FitOptions(
        learningRate: try arguments.number("rate", Double.self), batchSize: try arguments.number("batch", Int.self),
        epochs: try arguments.number("epochs", Int.self), seed: try arguments.number("seed", UInt32.self),
        progress: arguments.file("progress"), heldOut: try samples(device, arguments, "held-x", "held-y"))
    let model = try await device.model(arguments["entry"] ?? device.description.entries[0].name)
    let given = try needed(try samples(device, arguments, "x", "y"), "x")
    try await model.fit(given, options) { tell($0, stop: stop) }
    try await save(model, arguments)
}

func save(_ model: Model, _ arguments: Arguments) async throws {
    if let file = arguments.file("delta") { try await model.saveDelta(to: file) }
    if let file = arguments.file("selected") { try await model.saveSelected(to: file) }
}

func model(_ device: Device, _ arguments: Arguments) async throws -> Model {
    if let file = arguments.file("from") { return try await device.model(from: file) }
    return try await device.model(arguments["entry"] ?? device.description.entries[0].name)
}

func predict(_ device: Device, _ arguments: Arguments) async throws {
    let files = arguments.files("out"), names = device.description.outputs.map(\.name)
    guard !files.isEmpty, files.count <= names.count else { throw Usage("--out can be given at most once per output") }
    let outputs = try await model(device, arguments).predict(try needed(try samples(device, arguments, "x"), "x"))
    for (file, name) in zip(files, names) { try outputs[name]!.data.write(to: file) }
}

func run() async throws {
    let arguments = try Arguments(Array(CommandLine.arguments.dropFirst()))
    let device = try await Device.open(at: arguments.package, threads: try arguments.number("threads", Int.self) ?? 1)
    switch arguments.command {
    case "show": show(device)
    case "score": try await score(device, arguments)
    case "fit": try await fit(device, arguments)
    case "predict": try await predict(device, arguments)
    case "save": try await save(try await model(device, arguments), arguments)
    default: throw Usage("\(arguments.command) is not a command")
    }
}

do {
    try await run()
} catch {
    FileHandle.standardError.write(Data("\(error)\n".utf8))
    exit(1)
}
