/// First Betti numbers of Vietoris-Rips complexes, counted as in adabet_onnx/scoring/betti.py, which explains why.
///
/// For each pair of points, a set of bits says which points are nearer to both than they are to each other. A pair is
/// free in a subset if the subset contains none of these points, so that it is not the only longest edge of any
/// triangle. The Betti number is
///
///     free pairs - (points - 1) - rank mod 2 of the triangles with two or three equal longest edges, over free pairs.
///
/// Another set of bits says with which points a pair forms such triangles; there are none if all lengths differ.
final class Loops {
    /// More points are rejected.
    static let mostPoints = 16384

    private let given: Int
    /// Number of points without duplicates; the fields below refer to these.
    private let points: Int
    /// Number of 64-bit words in a set of points.
    private let words: Int
    /// Index of each given point among those kept.
    private let place: [Int]
    private let lengthMemory, nearerMemory, levelMemory: Memory
    private var anyLevel = false

    private var lengths: UnsafeMutablePointer<Float> { lengthMemory.start.assumingMemoryBound(to: Float.self) }
    private var nearer: UnsafeMutablePointer<UInt64> { nearerMemory.start.assumingMemoryBound(to: UInt64.self) }
    private var level: UnsafeMutablePointer<UInt64> { levelMemory.start.assumingMemoryBound(to: UInt64.self) }

    /// - Parameters:
    ///   - distance: the distance between two points, in double precision; it is rounded to float32.
    ///   - count: number of points.
    /// - Throws: `notFinite` for invalid distances, `noMemory`.
    init(count: Int, distance: (Int, Int) -> Double) throws {
        guard count <= Self.mostPoints else {
            throw DeviceError(.usage, "there are \(count) points; at most \(Self.mostPoints) are supported")
        }
        let all = try Memory(count * count, times: MemoryLayout<Float>.stride, for: "distances")
        let lengths = all.start.bindMemory(to: Float.self, capacity: count * count)
        try Self.fill(lengths, count, distance)
        (place, points) = Self.leaveOutTwins(lengths, count)
        given = count
        words = (points + 63) / 64
        lengthMemory = all
        let bytes = words * MemoryLayout<UInt64>.stride
        nearerMemory = try Memory(Self.pairs(points), times: bytes, for: "counting loops", zeroed: true)
        levelMemory = try Memory(Self.pairs(points), times: bytes, for: "counting loops", zeroed: true)
        nearerMemory.start.bindMemory(to: UInt64.self, capacity: Self.pairs(points) * words)
        levelMemory.start.bindMemory(to: UInt64.self, capacity: Self.pairs(points) * words)
        for j in 0..<points { for i in 0..<j { fillSets(i, j) } }
    }

    private static func pairs(_ points: Int) -> Int { points > 0 ? points * (points - 1) / 2 : 0 }

    /// Index of the pair of two different points among all pairs.
    private static func pair(_ a: Int, _ b: Int) -> Int { a < b ? b * (b - 1) / 2 + a : a * (a - 1) / 2 + b }

    private static func fill(_ lengths: UnsafeMutablePointer<Float>, _ count: Int, _ distance: (Int, Int) -> Double) throws {
        for i in 0..<count {
            for j in 0..<count {
                let length = distance(i, j)
                func wrong(_ why: String) -> DeviceError {
                    DeviceError(.notFinite, "the distance from point \(i) to point \(j) is \(told(length)); \(why)")
                }
                guard length >= 0 else { throw wrong("expected a number that is not negative") }
                guard i != j || length == 0 else { throw wrong("expected 0 from a point to itself") }
                lengths[i * count + j] = Float(length)
                guard j >= i || lengths[i * count + j] == lengths[j * count + i] else {
                    throw wrong("expected the same as in the other direction, \(distance(j, i))")
                }
            }
        }
    }

    /// Drops points at distance 0 from an earlier one that has the same distances to all others. Such duplicates add no
    /// loops: at every length they are connected to the same points.
    private static func leaveOutTwins(_ lengths: UnsafeMutablePointer<Float>, _ count: Int) -> ([Int], Int) {
        var origin: [Int] = [], place = [Int](repeating: 0, count: count)
        for i in 0..<count {
            let twin = origin.firstIndex { other in
                lengths[i * count + other] == 0
                    && (0..<count).allSatisfy { lengths[i * count + $0] == lengths[other * count + $0] }
            }
            place[i] = twin ?? origin.count
            if twin == nil { origin.append(i) }
        }
        let kept = origin.count
        for i in 0..<kept {  // writes stay behind the reads
            for j in 0..<kept { lengths[i * kept + j] = lengths[origin[i] * count + origin[j]] }
        }
        return (place, kept)
    }

    /// Fills the sets of the pair (i, j).
    private func fillSets(_ i: Int, _ j: Int) {
        let fromI = lengths + i * points, fromJ = lengths + j * points, length = fromI[j]
        let at = Self.pair(i, j) * words
        for k in 0..<points where k != i && k != j {
            let farther = max(fromI[k], fromJ[k])
            if farther < length {
                nearer[at + k / 64] |= 1 << UInt64(k % 64)
            } else if farther == length {
                level[at + k / 64] |= 1 << UInt64(k % 64)
                anyLevel = true
            }
        }
    }

    /// The Betti numbers of subsets, which are requested one by one; a repeated point counts once.
    func count(_ subsets: Int, of next: () -> [Int]) throws -> [Int] {
        let basis = Basis(pairs: Self.pairs(points))
        return try (0..<subsets).map { _ in try count(next(), basis) }
    }

    private func count(_ subset: [Int], _ basis: Basis) throws -> Int {
        var inside = [UInt64](repeating: 0, count: words)
        for point in subset {
            guard (0..<given).contains(point) else {
                throw DeviceError(.usage, "a subset has point \(point); the points are 0 to \(given - 1)")
            }
            inside[place[point] / 64] |= 1 << UInt64(place[point] % 64)
        }
        let members = (0..<points).filter { inside[$0 / 64] >> UInt64($0 % 64) & 1 == 1 }
        guard let first = members.first else { return 0 }
        var edges: [(low: Int, high: Int)] = []
        for high in members where high != first {
            for low in members.prefix(while: { $0 < high }) {
                let at = Self.pair(low, high)
                basis.isFree[at] = (0..<words).allSatisfy { nearer[at * words + $0] & inside[$0] == 0 }
                if basis.isFree[at] { edges.append((low, high)) }
            }
        }
        let most = edges.count - (members.count - 1)  // the free edges connect all points
        return most - (anyLevel ? rank(edges, inside, basis, atMost: most) : 0)
    }

    /// The rank of the triangles with two or three equal longest edges. Usually one triangle per edge reaches the
    /// maximum, and nothing needs to be reduced.
    private func rank(_ edges: [(low: Int, high: Int)], _ inside: [UInt64], _ basis: Basis, atMost most: Int) -> Int {
        basis.clear()
        for all in [false, true] {
            for edge in edges {
                let at = Self.pair(edge.low, edge.high)
                for word in 0..<words {
                    var left = level[at * words + word] & inside[word]
                    while left != 0 {
                        if basis.rank == most { return most }
                        if !all && basis.starts(at) { break }
                        add(edge, third: 64 * word + left.trailingZeroBitCount, basis)
                        left &= left - 1
                    }
                }
            }
        }
        return basis.rank
    }

    /// Adds the triangle of a free edge and a third point, one or both of whose other edges are equally long. Each
    /// triangle is counted only at its last free edge.
    private func add(_ edge: (low: Int, high: Int), third: Int, _ basis: Basis) {
        let length = lengths[edge.low * points + edge.high], last = Self.pair(edge.low, edge.high)
        var sum = [UInt32(last)]
        for end in [edge.low, edge.high] {
            let other = Self.pair(end, third)
            if lengths[third * points + end] < length || !basis.isFree[other] { continue }
            if other > last { return }
            sum.append(UInt32(other))
        }
        if sum.count == 3 && sum[1] < sum[2] { sum.swapAt(1, 2) }
        basis.add(sum)
    }
}

/// Sums of pairs mod 2 in echelon form: lists in descending order, all with different first pairs.
private final class Basis {
    private(set) var rank = 0
    /// For each pair, whether it is free in the subset.
    var isFree: [Bool]
    /// For each pair, the index of the sum that starts with it, or -1.
    private var first: [Int]
    private var sums: [[UInt32]] = []

    init(pairs: Int) {
        isFree = [Bool](repeating: false, count: pairs)
        first = [Int](repeating: -1, count: pairs)
    }

    func clear() {
        for sum in sums { first[Int(sum[0])] = -1 }
        sums.removeAll(keepingCapacity: true)
        rank = 0
    }

    func starts(_ pair: Int) -> Bool { first[pair] >= 0 }

    /// Adds a sum, and 1 to the rank, unless it depends on the basis.
    func add(_ given: [UInt32]) {
        var sum = given
        while let start = sum.first {
            let there = first[Int(start)]
            guard there >= 0 else {
                first[Int(start)] = sums.count
                sums.append(sum)
                rank += 1
                return
            }
            sum = Self.added(sum, sums[there])
        }
    }

    private static func added(_ a: [UInt32], _ b: [UInt32]) -> [UInt32] {
        var result: [UInt32] = []
        result.reserveCapacity(a.count + b.count)
        var i = 0, j = 0
        while i < a.count && j < b.count {
            if a[i] == b[j] {
                i += 1
                j += 1
            } else if a[i] > b[j] {
                result.append(a[i])
                i += 1
            } else {
                result.append(b[j])
                j += 1
            }
        }
        result.append(contentsOf: a[i...])
        result.append(contentsOf: b[j...])
        return result
    }
}
