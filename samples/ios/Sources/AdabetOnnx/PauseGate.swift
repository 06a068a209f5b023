/// A gate that training passes after each step: while it is closed, training is paused.
///
///     try await model.fit(samples) { _ in await gate.passed() }
public actor PauseGate {
    public private(set) var isShut = false
    private var waiting: [Int: CheckedContinuation<Void, Never>] = [:]
    private var count = 0

    public init() {}

    public func pause() { isShut = true }

    public func resume() {
        isShut = false
        waiting.values.forEach { $0.resume() }
        waiting.removeAll()
    }

    /// Returns when the gate is open, or the task is cancelled.
    public func passed() async {
        guard isShut, !Task.isCancelled else { return }
        count += 1
        let ticket = count
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                if Task.isCancelled { continuation.resume() } else { waiting[ticket] = continuation }
            }
        } onCancel: {
            Task { await self.letGo(ticket) }
        }
    }

    private func letGo(_ ticket: Int) { waiting.removeValue(forKey: ticket)?.resume() }
}
