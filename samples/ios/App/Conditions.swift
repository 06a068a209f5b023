import Foundation

/// Reports when training should pause and when it can continue.
final class Conditions {
    private let tell: @Sendable (String?) -> Void
    private var observers: [NSObjectProtocol] = []

    /// - Parameter tell: called with the reason to pause training, or nil if there is none.
    init(_ tell: @escaping @Sendable (String?) -> Void) {
        self.tell = tell
        for name in [Notification.Name.NSProcessInfoPowerStateDidChange, ProcessInfo.thermalStateDidChangeNotification] {
            let observer = NotificationCenter.default.addObserver(forName: name, object: nil, queue: nil) { [weak self] _ in
                self?.look()
            }
            observers.append(observer)
        }
    }

    deinit { observers.forEach { NotificationCenter.default.removeObserver($0) } }

    func look() {
        let info = ProcessInfo.processInfo
        if info.isLowPowerModeEnabled {
            tell("Paused: Low Power Mode is on.")
        } else if info.thermalState == .serious || info.thermalState == .critical {
            tell("Paused until the device cools down.")
        } else {
            tell(nil)
        }
    }
}
