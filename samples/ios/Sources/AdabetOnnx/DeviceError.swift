import Foundation

/// The only error type that this library throws: the code is for programs, the message for users.
public struct DeviceError: Error, LocalizedError, CustomStringConvertible, Sendable {
    public enum Code: String, Sendable, CaseIterable {
        /// An argument is invalid.
        case usage
        /// A file is missing, truncated or invalid.
        case wrongFile = "wrong file"
        /// A file does not have the recorded SHA-256.
        case wrongHash = "wrong hash"
        /// The size or type of data does not match the model.
        case wrongShape = "wrong shape"
        /// A label is out of range.
        case wrongLabel = "wrong label"
        /// A loss, an activation or a number read is NaN or infinite.
        case notFinite = "not finite"
        case noMemory = "no memory"
        /// A file cannot be written: no space or no permission.
        case storage
        /// A delta or progress file belongs to another model, package, entry or training.
        case wrongModel = "wrong model"
        /// Too few samples.
        case tooFew = "too few"
        /// The task was cancelled.
        case cancelled
        /// The model is already being trained.
        case busy
        /// ONNX Runtime is too old, or reports an error.
        case runtime
    }

    public let code: Code
    /// One or two sentences: the problem, where it is, what was expected and found, and what to do.
    public let message: String

    init(_ code: Code, _ message: String) {
        self.code = code
        self.message = oneLine(message)
    }

    public var errorDescription: String? { message }
    public var description: String { "\(code.rawValue): \(message)" }
}

/// An untrusted name from a file, shortened to fit into a message.
func short(_ name: String) -> String {
    name.count <= 80 ? name : name.prefix(77) + "..."
}

/// A number for messages: NaN without sign and payload.
func told(_ number: some BinaryFloatingPoint & CustomStringConvertible) -> String {
    number.isNaN ? "nan" : number.description
}

private func oneLine(_ text: String) -> String {
    String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7f ? " " : $0 }))
}
