/// Converts raw numbers and pictures to the model's input.
extension Device {
    /// Converts raw numbers of whole samples, such as pixels from 0 to 255, to an input: scale, mean, std, and the
    /// order of colours (raw ones are red, green, blue). Steps that the package does not define are skipped.
    public func preprocess(_ numbers: inout [Float], input: Int = 0) throws {
        guard description.inputs.indices.contains(input) else {
            throw DeviceError(.usage, "there is no input \(input); the model has \(description.inputs.count)")
        }
        let type = description.inputs[input]
        guard numbers.count % type.elements == 0 else {
            throw DeviceError(
                .wrongShape, "there are \(numbers.count) numbers; a sample of '\(short(type.name))' has \(type.elements)")
        }
        guard let rule = description.preprocessing, type.dtype == .float32 else { return }
        let layout = try ChannelLayout(type, axis: rule.channelAxis)
        let mean = try layout.spread(rule.mean, "mean"), std = try layout.spread(rule.std, "std")
        let block = layout.channels * layout.inner
        for start in stride(from: 0, to: numbers.count, by: block) {
            if rule.bgr && layout.channels == 3 {
                for i in start..<start + layout.inner { numbers.swapAt(i, i + 2 * layout.inner) }
            }
            for i in 0..<block {
                let channel = i / layout.inner
                let scaled = numbers[start + i] * rule.scale
                let centred = scaled - mean[channel]
                numbers[start + i] = centred / std[channel]
            }
        }
    }

    /// Converts a picture to the model's input. Transparency is dropped; if the model has one channel, it is the luma
    /// (ITU-R 601, as in Pillow).
    ///
    /// - Parameters:
    ///   - rgba: four bytes per pixel, row by row.
    ///   - width: in pixels; must equal `pictureSize`: scale the picture first.
    public func input(fromRGBA rgba: [UInt8], width: Int, height: Int) throws -> [Float] {
        let wanted = try pictureSize(), layout = try pictureLayout()
        guard wanted.width == width, wanted.height == height, rgba.count == 4 * width * height else {
            let found = "the picture has \(width) x \(height) pixels in \(rgba.count) bytes"
            throw DeviceError(
                .wrongShape, "\(found); the model takes \(wanted.width) x \(wanted.height) with 4 bytes per pixel")
        }
        let pixels = width * height, channels = layout.channels
        var numbers = [Float](repeating: 0, count: pixels * channels)
        for i in 0..<pixels {
            if channels == 1 {
                let (red, green, blue) = (Int(rgba[4 * i]), Int(rgba[4 * i + 1]), Int(rgba[4 * i + 2]))
                numbers[i] = Float((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)
            } else {
                for c in 0..<3 { numbers[layout.inner == 1 ? 3 * i + c : c * pixels + i] = Float(rgba[4 * i + c]) }
            }
        }
        try preprocess(&numbers)
        return numbers
    }

    /// Width and height of the pictures that the model expects.
    public func pictureSize() throws -> (width: Int, height: Int) {
        _ = try pictureLayout()
        let shape = description.inputs[0].shape.map(\.count)
        return pictureAxis == 1 ? (shape[3], shape[2]) : (shape[2], shape[1])
    }

    private var pictureAxis: Int {
        let shape = description.inputs[0].shape
        if let axis = description.preprocessing?.channelAxis { return axis }
        return shape.count == 4 && (shape[1].count == 1 || shape[1].count == 3) ? 1 : 3
    }

    private func pictureLayout() throws -> ChannelLayout {
        let type = description.inputs[0], shape = type.shape.map(\.count)
        guard shape.count == 4, pictureAxis == 1 || pictureAxis == 3, [1, 3].contains(shape[pictureAxis]),
            type.dtype == .float32
        else {
            throw DeviceError(.wrongShape, "the input '\(short(type.name))' of shape \(shape) cannot take pictures")
        }
        return try ChannelLayout(type, axis: pictureAxis)
    }
}

/// Samples as blocks of channels x inner numbers, one after another.
private struct ChannelLayout {
    let channels: Int
    let inner: Int

    init(_ type: TensorType, axis: Int?) throws {
        guard let axis else {
            (channels, inner) = (1, type.elements)
            return
        }
        guard axis < type.shape.count else {
            throw DeviceError(
                .wrongShape, "'channel_axis' is \(axis); '\(short(type.name))' has \(type.shape.count) dimensions")
        }
        channels = type.shape[axis].count
        inner = type.shape[(axis + 1)...].reduce(1) { $0 * $1.count }
    }

    /// One number for each channel.
    func spread(_ numbers: [Float], _ what: String) throws -> [Float] {
        guard numbers.count == 1 || numbers.count == channels else {
            throw DeviceError(
                .wrongShape, "'\(what)' of 'preprocessing' has \(numbers.count) numbers; expected 1 or \(channels)")
        }
        return numbers.count == 1 ? [Float](repeating: numbers[0], count: channels) : numbers
    }
}
