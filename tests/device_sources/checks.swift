// Test commands for samples/ios beyond its program adabet-device:
//
//   numbers BETTI               the first Betti number of each matrix of betti-1000.bin
//   subsets BETTI SUBSETS       of the subsets of each matrix: a line for a matrix
//   matrix FILE                 of one matrix of float64
//   menu MENU                   for each case of menu-50.json, the choice or the message
//   hash FILE                   its SHA-256, by the code for systems without one
//   random SEED STREAM          four random numbers
//   pause PACKAGE X Y           the checks of pausing, cancelling and training twice
//   packages X Y OUT < LIST     everything that can be done with each package of a list of folders, until something
//                               fails; a line for each: the folder, what was done last, the code, the message
//   steps PACKAGE X Y STEPS     trains so many steps; prints "STEP BYTES", the resident memory, at 20 and at the end

import Foundation

@testable import AdabetOnnx

struct Wrong: Error {}

/// The little-endian numbers of a file.
struct Bytes {
    let data: Data
    var at = 0

    init(_ path: String) throws { data = try Data(contentsOf: URL(fileURLWithPath: path)) }

    mutating func next<T>(_ type: T.Type) -> T {
        defer { at += MemoryLayout<T>.size }
        return data.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at, as: T.self) }
    }
}

extension Loops {
    func count(_ subsets: [[Int]]) throws -> [Int] {
        var left = subsets.makeIterator()
        return try count(subsets.count) { left.next()! }
    }
}

/// A matrix of betti-1000.bin.
func nextLoops(_ file: inout Bytes) throws -> Loops {
    let points = Int(file.next(UInt16.self)), width = file.next(UInt16.self)
    _ = file.next(UInt32.self)
    var distance = [Double](repeating: 0, count: points * points)
    for i in 0..<points {
        for j in i + 1..<max(points, i + 1) {
            let length = width == 8 ? file.next(Double.self) : Double(file.next(Float.self))
            distance[i * points + j] = length
            distance[j * points + i] = length
        }
    }
    return try Loops(count: points) { distance[$0 * points + $1] }
}

func numbers(_ path: String, _ subsets: String?) throws {
    var file = try Bytes(path), more = try subsets.map { try Bytes($0) }
    _ = file.next(UInt32.self)
    for _ in 0..<file.next(UInt32.self) {
        let start = file.at, points = Int(file.next(UInt16.self))
        file.at = start
        let loops = try nextLoops(&file)
        var wanted = [Array(0..<points)]
        if more != nil {
            let count = more!.next(UInt32.self), size = more!.next(UInt32.self)
            wanted = (0..<count).map { _ in (0..<size).map { _ in Int(more!.next(UInt32.self)) } }
        }
        print(try loops.count(wanted).map(String.init).joined(separator: " "))
    }
}

func matrix(_ path: String) throws {
    var file = try Bytes(path)
    let points = Int(Double(file.data.count / 8).squareRoot())
    let distance = (0..<points * points).map { _ in file.next(Double.self) }
    print(try Loops(count: points) { distance[$0 * points + $1] }.count([Array(0..<points)])[0])
}

func menu(_ path: String) throws {
    let text = try Files.read(path, atMost: JSON.mostBytes)
    guard case .object(let content) = try JSON.parse(text.bytes, path), case .array(let cases)? = content["cases"] else {
        throw Wrong()
    }
    for item in cases {
        let fields = try Fields(item, "a case")
        guard case .object(let scores)? = fields.given("scores") else { throw Wrong() }
        let items = try fields.list("entries").map { entry in
            let entry = try Fields(entry, "an entry")
            return MenuItem(name: try entry.text("name"), layers: try entry.texts("layers"), memory: try Entry.memory(entry))
        }
        let numbers = try scores.mapValues { value in
            guard case .number(let number, _) = value else { throw Wrong() }
            return number
        }
        let most = 0...Int.max
        do {
            let limit = try fields.wholeIfGiven("limit", most), batch = try fields.whole("batch", most)
            print(try chosen(items, numbers, memory: limit, batchSize: batch).entry)
        } catch let error as DeviceError {
            print(error)
        }
    }
}

func plainHash(_ path: String) throws {
    let text = try Files.read(path, atMost: 1 << 30)
    var hash = PlainSHA256()
    for start in stride(from: 0, to: text.count, by: 1001) {  // not a multiple of the block size
        hash.update(UnsafeRawBufferPointer(rebasing: text.bytes[start..<min(start + 1001, text.count)]))
    }
    print(hash.finished().map { String(format: "%02x", $0) }.joined(), SHA256Hash.hex(of: text.bytes))
}

func random(_ seed: String, _ stream: String) {
    var random = Random(seed: UInt32(seed)!, stream: UInt32(stream)!)
    print((0..<4).map { _ in String(random.next()) }.joined(separator: " "))
}

func samples(_ x: String, _ y: String) throws -> Samples {
    let labels = try Data(contentsOf: URL(fileURLWithPath: y))
    return Samples(inputs: [try Data(contentsOf: URL(fileURLWithPath: x))], labels: .bytes(labels))
}

// MARK: - Damaged packages

func use(_ device: Device, _ samples: Samples, _ out: String, _ stage: inout String) async throws {
    stage = "score"
    let scores = try await device.score(samples)
    let choice = try device.choose(scores, batchSize: 4)
    stage = "fit"
    let model = try await device.model(choice.entry)
    let options = FitOptions(
        batchSize: 4, epochs: 1, progress: URL(fileURLWithPath: out + ".progress"), heldOut: samples)
    try await model.fit(samples, options)
    stage = "predict"
    _ = try await model.predict(samples)
    stage = "save"
    try await model.saveDelta(to: URL(fileURLWithPath: out + ".delta"))
    try await model.saveSelected(to: URL(fileURLWithPath: out + ".selected"))
}

func packages(_ x: String, _ y: String, _ out: String) async throws {
    let samples = try samples(x, y)
    while let folder = readLine() {
        var stage = "open", found = "ok\t"
        do {
            let device = try await Device.open(at: URL(fileURLWithPath: folder))
            try await use(device, samples, out + "/" + (folder as NSString).lastPathComponent, &stage)
        } catch let error as DeviceError {
            found = "\(error.code.rawValue)\t\(error.message)"
        }
        print("\(folder)\t\(stage)\t\(found)")
        fflush(nil)
    }
}

// MARK: - Pausing

actor Seen {
    private(set) var steps = 0
    private(set) var epochs = 0
    func add(_ progress: TrainingProgress) { if progress.epochDone { epochs += 1 } else { steps += 1 } }
}

func expect(_ holds: Bool, _ what: String) throws {
    print(holds ? "holds:" : "DOES NOT HOLD:", what)
    guard holds else { throw Wrong() }
}

func codes(_ body: () async throws -> Void) async -> DeviceError.Code? {
    do {
        try await body()
        return nil
    } catch {
        return (error as? DeviceError)?.code
    }
}

func pause(_ package: String, _ x: String, _ y: String) async throws {
    let device = try await Device.open(at: URL(fileURLWithPath: package)), samples = try samples(x, y)
    let model = try await device.model(device.description.entries[0].name), gate = PauseGate(), seen = Seen()
    await gate.pause()
    let task = Task {
        try await model.fit(samples, FitOptions(batchSize: 16, epochs: 2)) { progress in
            await seen.add(progress)
            await gate.passed()
        }
    }
    while await seen.steps == 0 { try await Task.sleep(nanoseconds: 1_000_000) }
    try await Task.sleep(nanoseconds: 50_000_000)
    try expect(await seen.steps == 1, "while the gate is shut, no step is done")
    try expect(await codes { try await model.fit(samples) } == .busy, "a second training is refused")
    try expect(await model.epoch == 0, "no epoch is whole")
    let before = try await model.predict(samples)
    let fresh = try await device.model(device.description.entries[0].name).predict(samples)
    let name = device.description.outputs[0].name
    try expect(before[name]!.data == fresh[name]!.data, "predictions in an epoch are those of the last whole one")
    await gate.resume()
    try await task.value
    try expect(await seen.epochs == 2, "resumed, it goes on to the end")
    await gate.pause()
    let other = Task { try await model.fit(samples, FitOptions(batchSize: 16, epochs: 3)) { _ in await gate.passed() } }
    try await Task.sleep(nanoseconds: 50_000_000)
    other.cancel()
    try expect(await codes { try await other.value } == .cancelled, "paused, it can be cancelled")
    try expect(await model.epoch == 2, "what complete epochs have learned remains")
    let wrong = FitOptions(batchSize: 8, epochs: 3)
    try expect(await codes { try await model.fit(samples, wrong) } == .wrongModel, "another batch size is another training")
    try await model.reset()
    try expect(try await model.predict(samples)[name]!.data == fresh[name]!.data, "reset, it is as it was")
}

// MARK: - Memory

func residentBytes() -> Int {
    let pages = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?.split(separator: " ")
    return (pages.flatMap { Int($0[1]) } ?? 0) * 4096
}

func steps(_ package: String, _ x: String, _ y: String, _ count: Int) async throws {
    let device = try await Device.open(at: URL(fileURLWithPath: package)), samples = try samples(x, y)
    let model = try await device.model(device.description.entries[0].name), start = Date()
    do {
        try await model.fit(samples, FitOptions(batchSize: 8, epochs: count)) { progress in
            guard !progress.epochDone else { return }
            if progress.step == 20 || progress.step == count { print(progress.step, residentBytes()) }
            if progress.step == count { withUnsafeCurrentTask { $0?.cancel() } }
        }
    } catch let error as DeviceError where error.code == .cancelled {
        print("milliseconds a step:", -start.timeIntervalSinceNow * 1000 / Double(count))
    }
}

let words = Array(CommandLine.arguments.dropFirst())
do {
    switch (words.first, words.count) {
    case ("numbers", 2): try numbers(words[1], nil)
    case ("subsets", 3): try numbers(words[1], words[2])
    case ("matrix", 2): try matrix(words[1])
    case ("menu", 2): try menu(words[1])
    case ("hash", 2): try plainHash(words[1])
    case ("random", 3): random(words[1], words[2])
    case ("pause", 4): try await pause(words[1], words[2], words[3])
    case ("packages", 4): try await packages(words[1], words[2], words[3])
    case ("steps", 5): try await steps(words[1], words[2], words[3], Int(words[4])!)
    default: exit(2)
    }
} catch let error as DeviceError {
    print(error)
}
