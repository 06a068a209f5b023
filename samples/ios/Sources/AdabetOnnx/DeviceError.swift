import Foundation

/// The one kind of error that this library throws: a program acts on the code, a person on the message.
public struct DeviceError: Error, LocalizedError, CustomStringConvertible, Sendable {
    public enum Code: String, Sendable, CaseIterable {
        /// An argument cannot be meant.
        case usage
        /// A file is missing, cut short, or not what it should be.
        case wrongFile = "wrong file"
        /// A file's bytes do not have the SHA-256 that is written for them.
        case wrongHash = "wrong hash"
        /// Data have another size or type than the model takes.
        case wrongShape = "wrong shape"
        /// A label is out of range.
        case wrongLabel = "wrong label"
        /// A loss, an activation or a number read is NaN or infinite.
        case notFinite = "not finite"
        case noMemory = "no memory"
        /// A file cannot be written: no space or no permission.
        case storage
        /// A delta or progress of another model, package, entry or training.
        case wrongModel = "wrong model"
        /// Too few samples.
        case tooFew = "too few"
        /// The task was cancelled.
        case cancelled
        /// The model is being trained already.
        case busy
        /// ONNX Runtime is too old, or reports an error.
        case runtime
    }

    public let code: Code
    /// One sentence or two: what was wrong, where, what was expected and found, and what to do.
    public let message: String

    init(_ code: Code, _ message: String) {
        self.code = code
        self.message = oneLine(message)
    }

    public var errorDescription: String? { message }
    public var description: String { "\(code.rawValue): \(message)" }
}

/// A name from a file, which may be anybody's, cut to what a message has room for.
func short(_ name: String) -> String {
    name.count <= 80 ? name : name.prefix(77) + "..."
}

/// A number for messages: NaN without its sign and bits.
func told(_ number: some BinaryFloatingPoint & CustomStringConvertible) -> String {
    number.isNaN ? "nan" : number.description
}

private func oneLine(_ text: String) -> String {
    String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7f ? " " : $0 }))
}
