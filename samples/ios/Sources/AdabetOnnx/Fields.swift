/// An object of device.json whose values are read one by one, and checked before they are used.
struct Fields {
    private let values: [String: JSON]
    /// Its path, for messages.
    let place: String

    /// Integers that all languages represent exactly.
    static let most = (1 << 53) - 1

    init(_ value: JSON, _ place: String) throws {
        guard case .object(let values) = value else {
            throw DeviceError(.wrongFile, "device.json: \(place) is \(value.kind); expected an object")
        }
        self.values = values
        self.place = short(place)
    }

    /// The same values, with another name for messages.
    func called(_ name: String) -> Fields { Fields(values: values, place: name) }

    private init(values: [String: JSON], place: String) {
        self.values = values
        self.place = place
    }

    func wrong(_ why: String) -> DeviceError { DeviceError(.wrongFile, "device.json: \(why)") }
    func misshapen(_ why: String) -> DeviceError { DeviceError(.wrongShape, "device.json: \(why)") }

    /// nil if it is null or missing.
    func given(_ key: String) -> JSON? {
        guard let value = values[key], !value.isNull else { return nil }
        return value
    }

    private func value(_ key: String) throws -> JSON {
        guard let value = values[key] else { throw wrong("\(place) has no '\(key)'") }
        return value
    }

    private func another(_ key: String, _ value: JSON, _ expected: String) -> DeviceError {
        wrong("'\(key)' of \(place) is \(value.kind); expected \(expected)")
    }

    func text(_ key: String) throws -> String {
        let value = try value(key)
        guard case .string(let text) = value else { throw another(key, value, "a string") }
        return text
    }

    /// A non-empty string; names go to a C interface and into messages.
    func name(_ key: String) throws -> String {
        let text = try text(key)
        guard !text.isEmpty else { throw wrong("'\(key)' of \(place) is empty") }
        return text
    }

    func number(_ key: String) throws -> Double {
        let value = try value(key)
        guard case .number(let number, _) = value else { throw another(key, value, "a number") }
        guard number.isFinite else { throw wrong("'\(key)' of \(place) is \(number); expected a finite number") }
        return number
    }

    func whole(_ key: String, _ range: ClosedRange<Int>) throws -> Int {
        let value = try value(key)
        guard case .number(let number, let whole) = value else { throw another(key, value, "a number") }
        guard let whole, range.contains(whole) else {
            let expected = "a whole number from \(range.lowerBound) to \(range.upperBound)"
            throw wrong("'\(key)' of \(place) is \(whole.map(String.init) ?? String(number)); expected \(expected)")
        }
        return whole
    }

    func wholeIfGiven(_ key: String, _ range: ClosedRange<Int>) throws -> Int? {
        given(key) == nil ? nil : try whole(key, range)
    }

    func flag(_ key: String) throws -> Bool {
        let value = try value(key)
        guard case .bool(let flag) = value else { throw another(key, value, "true or false") }
        return flag
    }

    func list(_ key: String) throws -> [JSON] {
        let value = try value(key)
        guard case .array(let items) = value else { throw another(key, value, "an array") }
        return items
    }

    func filledList(_ key: String) throws -> [JSON] {
        let items = try list(key)
        guard !items.isEmpty else { throw wrong("'\(key)' of \(place) is empty") }
        return items
    }

    func object(_ key: String, called name: String) throws -> Fields { try Fields(try value(key), name) }

    func texts(_ key: String) throws -> [String] {
        try list(key).map { item in
            guard case .string(let text) = item else {
                throw wrong("'\(key)' of \(place) has an item that is not a string")
            }
            return text
        }
    }

    /// At least one finite number.
    func numbers(_ key: String) throws -> [Double] {
        let found = try list(key).compactMap { item -> Double? in
            guard case .number(let number, _) = item, number.isFinite else { return nil }
            return number
        }
        guard !found.isEmpty, found.count == (try list(key)).count else {
            throw wrong("'\(key)' of \(place) is not a list of finite numbers")
        }
        return found
    }

    func hash(_ key: String) throws -> String {
        let text = try text(key)
        guard text.utf8.count == 64, text.utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) })
        else { throw wrong("'\(key)' of \(place) is not a SHA-256 in hex") }
        return text
    }

    func dtype(_ key: String) throws -> DataType {
        let text = try text(key)
        guard let dtype = DataType(rawValue: text) else {
            throw misshapen("'\(key)' of \(place) is '\(short(text))', which is not supported")
        }
        return dtype
    }
}

/// Whether a shape has an axis of samples.
enum Batched {
    case no
    /// It is the first axis.
    case first
    /// It may be any axis, and be a multiple of the number of samples.
    case anywhere
}

extension Fields {
    static let mostDimensions = 16

    /// Reads a shape and the tensor's type.
    func type(_ name: String, _ dtype: DataType, shape key: String, _ batched: Batched) throws -> TensorType {
        let items = try list(key)
        guard items.count <= Self.mostDimensions else {
            throw misshapen("'\(key)' of \(place) has \(items.count) dimensions; expected at most \(Self.mostDimensions)")
        }
        let shape = try items.enumerated().map { try extent($1, at: $0, key, batched) }
        guard batched != .first || shape.first == .samples else {
            throw misshapen("'\(key)' of \(place) does not begin with \"N\"")
        }
        guard shape.filter(\.perSample).count <= 1 else {
            throw misshapen("'\(key)' of \(place) has more than one axis of samples")
        }
        guard let made = TensorType(name: name, dtype: dtype, shape: shape) else {
            throw misshapen("'\(key)' of \(place) is too large")
        }
        return made
    }

    private func extent(_ item: JSON, at axis: Int, _ key: String, _ batched: Batched) throws -> TensorType.Extent {
        if case .number(_, let whole?) = item, (1...Self.most).contains(whole) {
            return TensorType.Extent(count: whole, perSample: false)
        }
        if case .string(let text) = item {
            if text == "N", batched == .anywhere || (batched == .first && axis == 0) { return .samples }
            if batched == .anywhere, text.hasSuffix("*N"), let rows = Int(text.dropLast(2)), (1...Self.most).contains(rows) {
                return TensorType.Extent(count: rows, perSample: true)
            }
        }
        throw misshapen("dimension \(axis) of '\(key)' of \(place) is not a positive whole number")
    }
}
