using System;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using System.Text;

namespace Adabet.Device
{
    /// <summary>The files of a package. Before each use, size and SHA-256 are checked against device.json (for
    /// rewritten files, only the size).</summary>
    internal sealed class PackageFiles
    {
        private readonly string folder;
        private readonly Description about;

        public PackageFiles(string folder, Description about)
        {
            this.folder = folder;
            this.about = about;
        }

        /// <summary>The path of a file that has just been checked, for the runtime to open.</summary>
        public string CheckedPath(string name)
        {
            string path = Path.Combine(folder, name);
            using (var stream = Open(path, name))
                Check(name, stream.Length, stream);
            return path;
        }

        /// <summary>The bytes of a file that fits in memory.</summary>
        public byte[] Read(string name)
        {
            byte[] bytes = ReadAll(Path.Combine(folder, name), name, Record(name).Bytes);
            Check(name, bytes.Length, new MemoryStream(bytes, false));
            return bytes;
        }

        private FileRecord Record(string name)
        {
            return about.Files.First(file => file.Name == name);
        }

        private void Check(string name, long bytes, Stream content)
        {
            var record = Record(name);
            if (bytes != record.Bytes)
                throw new DeviceException(DeviceError.WrongFile,
                    $"{name} has {bytes} bytes, expected {record.Bytes}. Copy the package again.");
            if (record.Rewritten) return;
            string found;
            using (var sha = SHA256.Create())
                found = Hex(sha.ComputeHash(content));
            if (found != record.Sha256)
                throw new DeviceException(DeviceError.WrongHash,
                    $"{name} has the SHA-256 {found}, expected {record.Sha256}. Copy the package again.");
        }

        public static string Hex(byte[] bytes)
        {
            var text = new StringBuilder(2 * bytes.Length);
            foreach (byte one in bytes) text.Append(one.ToString("x2"));
            return text.ToString();
        }

        /// <summary>Read a file of at most so many bytes.</summary>
        public static byte[] ReadAll(string path, string name, long most)
        {
            using (var stream = Open(path, name))
            {
                if (stream.Length > most)
                    throw new DeviceException(DeviceError.WrongFile,
                        $"{name} has {stream.Length} bytes, expected at most {most}.");
                var bytes = new byte[stream.Length];
                int at = 0;
                for (int got = 1; got > 0 && at < bytes.Length; at += got) got = stream.Read(bytes, at, bytes.Length - at);
                if (at == bytes.Length) return bytes;
                throw new DeviceException(DeviceError.WrongFile, $"{name} cannot be read to its end.");
            }
        }

        private static FileStream Open(string path, string name)
        {
            try
            {
                if ((File.GetAttributes(path) & (FileAttributes.Directory | FileAttributes.Device)) != 0)
                    throw new DeviceException(DeviceError.WrongFile, $"{name} is not a file: {path}.");
                return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read);
            }
            catch (Exception error) when (error is IOException || error is UnauthorizedAccessException
                || error is ArgumentException || error is NotSupportedException)
            {
                throw new DeviceException(DeviceError.WrongFile, $"{name} cannot be read: {DeviceException.Sentence(error)}", error);
            }
        }
    }

    /// <summary>Writes temporary files and renames them, so that either the old file or the complete new one
    /// exists.</summary>
    internal static class WholeFile
    {
        public static void Write(string path, Action<Stream> write)
        {
            if (string.IsNullOrEmpty(path)) throw new DeviceException(DeviceError.WrongOption, "The path to write to is empty.");
            string beside = path + ".partial";
            try
            {
                long written;
                using (var stream = new FileStream(beside, FileMode.Create, FileAccess.Write, FileShare.None))
                {
                    var counted = new CountedStream(stream);
                    write(counted);
                    stream.Flush(true);
                    written = counted.Count;
                }
                if (new FileInfo(beside).Length != written) throw new IOException("it could not be written completely");
                if (File.Exists(path)) File.Replace(beside, path, null);
                else File.Move(beside, path);
            }
            catch (Exception error) when (error is IOException || error is UnauthorizedAccessException
                || error is ArgumentException || error is NotSupportedException)
            {
                Forget(beside);
                throw new DeviceException(DeviceError.Storage,
                    $"{path} cannot be written: {DeviceException.Sentence(error)} Free some space, or choose another path.", error);
            }
        }

        private static void Forget(string path)
        {
            try
            {
                File.Delete(path);
            }
            catch (Exception error) when (error is IOException || error is UnauthorizedAccessException
                || error is ArgumentException || error is NotSupportedException)
            {
                // The error before this one is reported.
            }
        }

        /// <summary>Counts the written bytes, since not every .NET runtime reports a full disk.</summary>
        private sealed class CountedStream : Stream
        {
            private readonly Stream inner;
            private long count;

            public CountedStream(Stream inner)
            {
                this.inner = inner;
            }

            public long Count => count;
            public override bool CanRead => false;
            public override bool CanSeek => false;
            public override bool CanWrite => true;
            public override long Length => count;
            public override long Position { get => count; set => throw new NotSupportedException(); }

            public override void Write(byte[] buffer, int offset, int size)
            {
                inner.Write(buffer, offset, size);
                count += size;
            }

            public override void Flush() { inner.Flush(); }
            public override int Read(byte[] buffer, int offset, int size) { throw new NotSupportedException(); }
            public override long Seek(long offset, SeekOrigin origin) { throw new NotSupportedException(); }
            public override void SetLength(long value) { throw new NotSupportedException(); }
        }
    }
}
