/// The random numbers of docs/device-package.md.
struct Random {
    private var state: UInt32

    /// Limit of the samples that can be shuffled.
    static let most = 1 << 21

    init(seed: UInt32, stream: UInt32) {
        state = seed &+ stream &* 0x6C07_8965
    }

    mutating func next() -> UInt32 {
        state &+= 0x9E37_79B9
        var z = state
        z ^= z >> 16
        z &*= 0x85EB_CA6B
        z ^= z >> 13
        z &*= 0xC2B2_AE35
        return z ^ z >> 16
    }

    /// A number from 0 to n - 1; n is 1 to 2^21.
    mutating func below(_ n: Int) -> Int {
        Int((UInt64(next()) * UInt64(n)) >> 32)
    }

    /// m of 0 to n - 1, ascending.
    mutating func subset(_ n: Int, _ m: Int) -> [Int] {
        var all = Array(0..<n)
        for i in 0..<m { all.swapAt(i, i + below(n - i)) }
        return all[..<m].sorted()
    }

    /// The order of samples in an epoch.
    static func shuffle(_ n: Int, seed: UInt32, stream: UInt32) -> [Int] {
        var random = Random(seed: seed, stream: stream)
        var order = Array(0..<n)
        for i in stride(from: n - 1, to: 0, by: -1) { order.swapAt(i, random.below(i + 1)) }
        return order
    }
}
