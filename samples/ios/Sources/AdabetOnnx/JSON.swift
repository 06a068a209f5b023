/// A JSON value from an untrusted source.
enum JSON: Sendable {
    case null
    case bool(Bool)
    /// The second value is the number if it is written as an integer that fits into an Int.
    case number(Double, Int?)
    case string(String)
    case array([JSON])
    case object([String: JSON])

    static let mostBytes = 16 << 20
    static let mostDepth = 32

    /// Parses a whole text.
    ///
    /// - Parameter what: name of the text for messages.
    /// - Throws: `wrongFile`, also for duplicate keys, which are ambiguous.
    static func parse(_ bytes: UnsafeRawBufferPointer, _ what: String) throws -> JSON {
        guard bytes.count <= mostBytes else {
            throw DeviceError(.wrongFile, "\(what) has \(bytes.count) bytes; expected at most \(mostBytes)")
        }
        var reader = JSONReader(bytes: bytes, what: what)
        let value = try reader.value(depth: 1)
        reader.skipBlanks()
        guard reader.at == bytes.count else { throw reader.wrong("unexpected text after the value") }
        return value
    }

    /// Its type, for messages.
    var kind: String {
        switch self {
        case .null: return "null"
        case .bool(let value): return value ? "true" : "false"
        case .number: return "a number"
        case .string: return "a string"
        case .array: return "an array"
        case .object: return "an object"
        }
    }

    var isNull: Bool {
        if case .null = self { return true }
        return false
    }
}

private struct JSONReader {
    let bytes: UnsafeRawBufferPointer
    let what: String
    var at = 0

    var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    func wrong(_ why: String) -> DeviceError {
        DeviceError(.wrongFile, "\(what) is not valid JSON: \(why) at byte \(at)")
    }

    mutating func skipBlanks() {
        while let byte = next, byte == 0x20 || byte == 0x09 || byte == 0x0a || byte == 0x0d { at += 1 }
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard next == byte else { return false }
        at += 1
        return true
    }

    private mutating func take(_ word: StaticString) -> Bool {
        let length = word.utf8CodeUnitCount
        guard bytes.count - at >= length, (0..<length).allSatisfy({ bytes[at + $0] == word.utf8Start[$0] }) else {
            return false
        }
        at += length
        return true
    }

    mutating func value(depth: Int) throws -> JSON {
        guard depth <= JSON.mostDepth else { throw wrong("values more than \(JSON.mostDepth) deep") }
        skipBlanks()
        switch next {
        case UInt8(ascii: "{"): return try object(depth)
        case UInt8(ascii: "["): return try array(depth)
        case UInt8(ascii: "\""): return .string(try string())
        default: break
        }
        if take("null") { return .null }
        if take("false") { return .bool(false) }
        if take("true") { return .bool(true) }
        return try number()
    }

    private mutating func array(_ depth: Int) throws -> JSON {
        var items: [JSON] = []
        at += 1
        skipBlanks()
        while !take(UInt8(ascii: "]")) {
            if !items.isEmpty, !take(UInt8(ascii: ",")) { throw wrong("a missing comma or bracket") }
            items.append(try value(depth: depth + 1))
            skipBlanks()
        }
        return .array(items)
    }

    private mutating func object(_ depth: Int) throws -> JSON {
        var items: [String: JSON] = [:]
        at += 1
        skipBlanks()
        while !take(UInt8(ascii: "}")) {
            if !items.isEmpty, !take(UInt8(ascii: ",")) { throw wrong("a missing comma or bracket") }
            skipBlanks()
            guard next == UInt8(ascii: "\"") else { throw wrong("a missing key") }
            let key = try string()
            skipBlanks()
            guard take(UInt8(ascii: ":")) else { throw wrong("a missing colon") }
            let found = try value(depth: depth + 1)
            guard items.updateValue(found, forKey: key) == nil else {
                throw DeviceError(.wrongFile, "\(what) has the key '\(short(key))' twice in one object")
            }
            skipBlanks()
        }
        return .object(items)
    }

    private mutating func string() throws -> String {
        var units: [UInt8] = []
        at += 1
        while let byte = next {
            if byte == UInt8(ascii: "\"") {
                at += 1
                guard let text = String(validatingUTF8Bytes: units) else { throw notOfString() }
                return text
            }
            guard byte >= 0x20 else { throw notOfString() }
            at += 1
            if byte != UInt8(ascii: "\\") {
                units.append(byte)
            } else if next == nil {
                break
            } else if !escape(&units) {
                throw notOfString()
            }
        }
        throw wrong("an unterminated string")
    }

    private func notOfString() -> DeviceError { wrong("an invalid character or escape in a string") }

    /// Reads what follows a backslash; returns false if it is not an escape.
    private mutating func escape(_ units: inout [UInt8]) -> Bool {
        let letter = bytes[at]
        at += 1
        switch letter {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): units.append(letter)
        case UInt8(ascii: "b"): units.append(0x08)
        case UInt8(ascii: "f"): units.append(0x0c)
        case UInt8(ascii: "n"): units.append(0x0a)
        case UInt8(ascii: "r"): units.append(0x0d)
        case UInt8(ascii: "t"): units.append(0x09)
        case UInt8(ascii: "u"):
            guard let scalar = escapedScalar() else { return false }
            units.append(contentsOf: Array(String(Character(scalar)).utf8))
        default: return false
        }
        return true
    }

    /// Reads what follows `\u`, including the second half of a surrogate pair. NUL is rejected, since names go to a C
    /// interface.
    private mutating func escapedScalar() -> Unicode.Scalar? {
        guard let first = hex4(), first != 0 else { return nil }
        guard (0xd800..<0xdc00).contains(first) else { return Unicode.Scalar(first) }
        guard take("\\u"), let second = hex4(), (0xdc00..<0xe000).contains(second) else { return nil }
        return Unicode.Scalar(0x10000 + ((first - 0xd800) << 10 | (second - 0xdc00)))
    }

    private mutating func hex4() -> UInt32? {
        guard bytes.count - at >= 4 else { return nil }
        var code: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = Character(Unicode.Scalar(bytes[at])).hexDigitValue else { return nil }
            code = code << 4 | UInt32(digit)
            at += 1
        }
        return code
    }

    private mutating func digits() -> Bool {
        let start = at
        while let byte = next, (0x30...0x39).contains(byte) { at += 1 }
        return at > start
    }

    private mutating func number() throws -> JSON {
        let start = at
        var whole = true
        _ = take(UInt8(ascii: "-"))
        guard take(UInt8(ascii: "0")) || digits() else { throw wrong("an unknown value") }
        if take(UInt8(ascii: ".")) {
            whole = false
            guard digits() else { throw wrong("a number that ends with a decimal point") }
        }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            whole = false
            if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
            guard digits() else { throw wrong("a number with an incomplete exponent") }
        }
        guard at - start < 64 else { throw wrong("a number with too many digits") }
        let text = String(decoding: bytes[start..<at], as: UTF8.self)
        guard let number = Double(text) else { throw wrong("an unknown value") }
        return .number(number, whole ? Int(text) : nil)
    }
}

extension String {
    /// nil if the bytes are not UTF-8.
    fileprivate init?(validatingUTF8Bytes bytes: [UInt8]) {
        var decoder = UTF8()
        var iterator = bytes.makeIterator()
        var scalars = String.UnicodeScalarView()
        while true {
            switch decoder.decode(&iterator) {
            case .scalarValue(let scalar): scalars.append(scalar)
            case .emptyInput:
                self.init(scalars)
                return
            case .error: return nil
            }
        }
    }
}
