import Foundation

/// Memory whose allocation can fail with an error: Swift's arrays end the program instead.
final class Memory {
    let start: UnsafeMutableRawPointer
    let count: Int

    /// Allocates bytes, aligned for any tensor.
    ///
    /// - Parameter purpose: what it is for, as in "there is not enough memory for …".
    init(_ count: Int, for purpose: String, zeroed: Bool = false, advice: String = "") throws {
        var made: UnsafeMutableRawPointer?
        guard count >= 0, posix_memalign(&made, 64, max(count, 1)) == 0, let made else {
            throw DeviceError(.noMemory, "there is not enough memory for \(purpose) (\(count) bytes)\(advice)")
        }
        start = made
        self.count = count
        if zeroed { memset(made, 0, count) }
    }

    /// Allocates so many items of so many bytes.
    convenience init(
        _ items: Int, times bytes: Int, for purpose: String, zeroed: Bool = false, advice: String = ""
    ) throws {
        let (total, tooMany) = items.multipliedReportingOverflow(by: bytes)
        guard !tooMany else { throw DeviceError(.noMemory, "there is not enough memory for \(purpose)\(advice)") }
        try self.init(total, for: purpose, zeroed: zeroed, advice: advice)
    }

    deinit { free(start) }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: start, count: count) }

    func copy(from other: Memory, count: Int) { memcpy(start, other.start, count) }
}
