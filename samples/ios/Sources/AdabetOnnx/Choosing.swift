/// The entry with the highest score among those that fit in memory.
public struct Choice: Sendable {
    public let entry: String
    /// The sum of its layers' scores.
    public let worth: Double
    /// Bytes needed to train it.
    public let bytes: Int
}

extension Device {
    /// Chooses an entry by scores; ties go to the smaller memory, then to the first.
    ///
    /// - Parameters:
    ///   - memory: bytes available for training; nil for no limit.
    ///   - batchSize: samples per step (default: the package's).
    /// - Throws: `noMemory` if none fits; the message states the memory of the smallest.
    public func choose(_ scores: Scores, memory: Int? = nil, batchSize: Int? = nil) throws -> Choice {
        let byLayer = Dictionary(scores.layers.map { ($0.name, $0.score) }) { first, _ in first }
        let menu = description.entries.map { MenuItem(name: $0.name, layers: $0.layers, memory: $0.memory) }
        return try chosen(menu, byLayer, memory: memory, batchSize: batchSize ?? description.start.batchSize)
    }
}

struct MenuItem {
    let name: String
    let layers: [String]
    let memory: [MemoryPair]

    /// Bytes that training needs at a batch size: beyond the last pair, ceil(bytes * b / batch) of that pair.
    func needs(_ batchSize: Int) -> Int {
        if let pair = memory.first(where: { $0.batch >= batchSize }) { return pair.bytes }
        guard let last = memory.last else { return 0 }
        let batch = UInt(last.batch), (high, low) = UInt(last.bytes).multipliedFullWidth(by: UInt(batchSize))
        guard high < batch else { return Int.max }
        let (quotient, remainder) = batch.dividingFullWidth((high, low))
        return Int(clamping: remainder == 0 || quotient == UInt.max ? quotient : quotient + 1)
    }
}

func chosen(_ menu: [MenuItem], _ scores: [String: Double], memory: Int?, batchSize: Int) throws -> Choice {
    guard batchSize >= 1 else { throw DeviceError(.usage, "a batch size of \(batchSize); expected at least 1") }
    if let wrong = scores.first(where: { !$0.value.isFinite }) {
        throw DeviceError(.notFinite, "the score of layer '\(short(wrong.key))' is \(told(wrong.value))")
    }
    let all = menu.map { item in
        Choice(
            entry: item.name, worth: item.layers.reduce(0) { $0 + (scores[$1] ?? 0) }, bytes: item.needs(batchSize))
    }
    var best: Choice?
    for choice in all where choice.bytes <= memory ?? Int.max {
        guard let old = best else {
            best = choice
            continue
        }
        if choice.worth > old.worth || (choice.worth == old.worth && choice.bytes < old.bytes) { best = choice }
    }
    guard let best else {
        let smallest = all.map(\.bytes).min() ?? 0
        let found = "no choice of layers can be trained in \(memory ?? 0) bytes at a batch size of \(batchSize)"
        throw DeviceError(.noMemory, "\(found): the smallest needs \(smallest)")
    }
    return best
}
