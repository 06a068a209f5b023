import Foundation

/// Says when it is no time for training, and when it is again.
final class Conditions {
    private let tell: @Sendable (String?) -> Void
    private var observers: [NSObjectProtocol] = []

    /// - Parameter tell: called with why training should pause, or nil where nothing speaks against it.
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
            tell("Paused until the device is cooler.")
        } else {
            tell(nil)
        }
    }
}
