import Foundation

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// A regular file open for reading: pipes and folders are rejected without blocking.
private final class OpenFile {
    let descriptor: Int32
    let size: Int
    let path: String

    init(_ path: String) throws {
        self.path = path
        descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
        guard descriptor >= 0 else { throw DeviceError(.wrongFile, "\(path) cannot be read: \(said(errno))") }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            close(descriptor)
            throw DeviceError(.wrongFile, "\(path) is not a file")
        }
        size = Int(status.st_size)
    }

    deinit { close(descriptor) }

    /// Reads until the buffer is full or the file ends; returns the number of bytes.
    func fill(_ start: UnsafeMutableRawPointer, _ count: Int) throws -> Int {
        var done = 0
        while done < count {
            let got = read(descriptor, start + done, count - done)
            if got < 0 && errno == EINTR { continue }
            guard got >= 0 else { throw DeviceError(.wrongFile, "\(path) cannot be read to its end: \(said(errno))") }
            if got == 0 { break }
            done += got
        }
        return done
    }
}

enum Files {
    /// Reads a whole file of at most so many bytes.
    static func read(_ path: String, atMost most: Int) throws -> Memory {
        let file = try OpenFile(path)
        guard file.size <= most else {
            throw DeviceError(.wrongFile, "\(path) has \(file.size) bytes; expected at most \(most)")
        }
        let memory = try Memory(file.size, for: path)
        guard try file.fill(memory.start, file.size) == file.size else {
            throw DeviceError(.wrongFile, "\(path) cannot be read to its end")
        }
        return memory
    }

    static func size(_ path: String) throws -> Int { try OpenFile(path).size }

    /// Size and SHA-256, computed in chunks.
    static func hash(_ path: String) throws -> (bytes: Int, hex: String) {
        let file = try OpenFile(path), part = try Memory(1 << 18, for: "reading files")
        var hash = SHA256Hash()
        var bytes = 0
        while true {
            let got = try file.fill(part.start, part.count)
            hash.update(UnsafeRawBufferPointer(start: part.start, count: got))
            bytes += got
            if got < part.count { return (bytes, hash.hex()) }
        }
    }

    /// Whether the path exists, readable or not.
    static func exists(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 || errno != ENOENT
    }

    /// Writes a temporary file, flushes it to disk and renames it: an existing file is replaced completely or not at
    /// all.
    static func store(_ parts: [UnsafeRawBufferPointer], to path: String) throws {
        let beside = path + ".partial"
        let descriptor = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw refused(path, errno) }
        var problem: Int32 = 0
        for part in parts where problem == 0 { problem = writeAll(descriptor, part) }
        if problem == 0 && flush(descriptor) != 0 { problem = errno }
        if close(descriptor) != 0 && problem == 0 { problem = errno }
        if problem == 0 && rename(beside, path) != 0 { problem = errno }
        guard problem == 0 else {
            unlink(beside)
            throw refused(path, problem)
        }
        flushFolder(of: path)
    }

    private static func writeAll(_ descriptor: Int32, _ part: UnsafeRawBufferPointer) -> Int32 {
        var done = 0
        while done < part.count {
            let wrote = write(descriptor, part.baseAddress! + done, part.count - done)
            if wrote < 0 && errno == EINTR { continue }
            if wrote <= 0 { return wrote < 0 ? errno : EIO }
            done += wrote
        }
        return 0
    }

    private static func flush(_ descriptor: Int32) -> Int32 {
        #if canImport(Darwin)
            return fcntl(descriptor, F_FULLFSYNC) == 0 ? 0 : fsync(descriptor)  // not every file system has the first
        #else
            return fsync(descriptor)
        #endif
    }

    /// Flushes the folder, so that the new name is on the disk too; file systems that do not support this are ignored.
    private static func flushFolder(of path: String) {
        let folder = (path as NSString).deletingLastPathComponent
        let descriptor = open(folder.isEmpty ? "." : folder, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        _ = fsync(descriptor)
        close(descriptor)
    }

    private static func refused(_ path: String, _ problem: Int32) -> DeviceError {
        DeviceError(problem == ENOMEM ? .noMemory : .storage, "\(path) cannot be written: \(said(problem))")
    }
}

/// A memory-mapped file: pages are loaded on access, and the system can drop them when memory is short.
final class MappedFile: @unchecked Sendable {  // the mapped memory is never written to
    let bytes: UnsafeRawBufferPointer

    init(_ path: String) throws {
        let file = try OpenFile(path)
        guard file.size > 0 else {
            bytes = UnsafeRawBufferPointer(start: nil, count: 0)
            return
        }
        let start = mmap(nil, file.size, PROT_READ, MAP_PRIVATE, file.descriptor, 0)
        guard let start, start != MAP_FAILED else {
            throw DeviceError(.noMemory, "there is not enough memory to map \(path)")
        }
        bytes = UnsafeRawBufferPointer(start: start, count: file.size)
    }

    deinit {
        if let start = bytes.baseAddress { munmap(UnsafeMutableRawPointer(mutating: start), bytes.count) }
    }
}

private func said(_ problem: Int32) -> String { String(cString: strerror(problem)) }
