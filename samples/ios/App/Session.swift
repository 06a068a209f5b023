import AdabetOnnx
import Foundation
import PhotosUI
import SwiftUI
import os

/// A photograph in the form of the model's input, and its label.
struct Photograph: Identifiable {
    let id = UUID()
    let picture: UIImage
    let numbers: [Float]
    var label = 0
}

/// The state of the screen and the actions of its buttons, which call the library.
@MainActor
final class Session: ObservableObject {
    @Published var photographs: [Photograph] = []
    @Published private(set) var classes: [String] = []
    @Published private(set) var choice: Choice?
    @Published private(set) var scored: (done: Int, of: Int)?
    @Published private(set) var progress: TrainingProgress?
    @Published private(set) var why: String?
    @Published private(set) var shared: URL?
    @Published private(set) var message: String?
    @Published private(set) var isBusy = false

    /// Bytes available for training: half of the memory that the system still allows this app.
    private var memory: Int { max(Int(os_proc_available_memory()) / 2, 16 << 20) }
    private let gate = PauseGate()
    private var device: Device?
    private var model: Model?
    private var work: Task<Void, Never>?
    private lazy var conditions = Conditions { [weak self] reason in Task { await self?.follow(reason) } }

    /// The package is the folder `device` of the app, added as a folder reference.
    func open() async {
        await attempt {
            guard let folder = Bundle.main.url(forResource: "device", withExtension: nil) else {
                throw CocoaError(.fileNoSuchFile)
            }
            let device = try await Device.open(at: folder)
            self.device = device
            let count = device.description.labels.classes ?? 0
            self.classes = device.description.classNames ?? (0..<count).map(String.init)
        }
    }

    func add(_ items: [PhotosPickerItem]) async {
        guard let device else { return }
        await attempt {
            for item in items {
                guard let data = try await item.loadTransferable(type: Data.self), let picture = UIImage(data: data) else {
                    continue
                }
                let (width, height) = try device.pictureSize()
                let rgba = pixels(of: picture, width: width, height: height)
                let numbers = try device.input(fromRGBA: rgba, width: width, height: height)
                self.photographs.append(Photograph(picture: picture, numbers: numbers))
            }
        }
    }

    func score() {
        guard let device else { return }
        let samples = samples
        start {
            let scores = try await device.score(samples) { done, all in await self.show(done, all) }
            self.choice = try device.choose(scores, memory: self.memory)
        }
    }

    func train() {
        guard let device, let choice else { return }
        let samples = samples
        start {
            let model = try await device.model(choice.entry)
            self.model = model
            let file = try self.file("training.progress")
            do {
                try await self.fit(model, samples, file)
            } catch let error as DeviceError where [.wrongModel, .wrongHash].contains(error.code) && self.exists(file) {
                // The progress belongs to other photographs or is damaged: start again.
                try FileManager.default.removeItem(at: file)
                try await model.reset()
                try await self.fit(model, samples, file)
            }
            try await self.keep(model)
            if self.exists(file) { try FileManager.default.removeItem(at: file) }
        }
    }

    private func exists(_ file: URL) -> Bool { FileManager.default.fileExists(atPath: file.path) }

    private func fit(_ model: Model, _ samples: Samples, _ file: URL) async throws {
        try await model.fit(samples, FitOptions(progress: file)) { progress in
            await self.show(progress)
            await self.gate.passed()
        }
    }

    /// Stops after the current step; the next training resumes after the last complete epoch.
    func stop() { work?.cancel() }

    private var samples: Samples {
        Samples(photographs.flatMap(\.numbers), classes: photographs.map(\.label))
    }

    /// The delta can be sent, averaged with those of others, and applied to the model on any device.
    private func keep(_ model: Model) async throws {
        let file = try file("personal.safetensors")
        try await model.saveDelta(to: file)
        shared = file
    }

    private func file(_ name: String) throws -> URL {
        let folder = try FileManager.default.url(
            for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        return folder.appendingPathComponent(name)
    }

    private func show(_ done: Int, _ all: Int) { scored = (done, all) }
    private func show(_ progress: TrainingProgress) { self.progress = progress }

    /// Training pauses in Low Power Mode and when the device is hot, and continues afterwards.
    private func follow(_ reason: String?) async {
        why = reason
        if reason == nil { await gate.resume() } else { await gate.pause() }
    }

    private func start(_ job: @escaping @MainActor () async throws -> Void) {
        guard !isBusy else { return }
        conditions.look()
        isBusy = true
        work = Task {
            await attempt(job)
            isBusy = false
        }
    }

    private func attempt(_ job: @MainActor () async throws -> Void) async {
        do {
            message = nil
            try await job()
        } catch let error as DeviceError where error.code == .cancelled {
            message = nil
        } catch {
            message = error.localizedDescription
        }
    }
}

/// Four bytes per pixel, row by row, of a picture scaled to this size.
private func pixels(of picture: UIImage, width: Int, height: Int) -> [UInt8] {
    let format = UIGraphicsImageRendererFormat()
    format.scale = 1
    let size = CGSize(width: width, height: height)
    let scaled = UIGraphicsImageRenderer(size: size, format: format).image { _ in  // also rotates it upright
        picture.draw(in: CGRect(origin: .zero, size: size))
    }
    var bytes = [UInt8](repeating: 0, count: 4 * width * height)
    bytes.withUnsafeMutableBytes { memory in
        let context = CGContext(
            data: memory.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
            space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        if let image = scaled.cgImage { context?.draw(image, in: CGRect(origin: .zero, size: size)) }
    }
    return bytes
}
