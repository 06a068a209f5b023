using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Security.Cryptography;

namespace Adabet.Device
{
    /// <summary>The position in training of a state.</summary>
    internal sealed class Place
    {
        public readonly long Epoch, Step;
        public readonly uint Seed;
        public readonly int BatchSize;

        public Place(long epoch, long step, uint seed, int batchSize)
        {
            Epoch = epoch;
            Step = step;
            Seed = seed;
            BatchSize = batchSize;
        }
    }

    /// <summary>Deltas and progress as files.</summary>
    internal static class Carried
    {
        public const string Delta = "adabet-onnx/delta", Progress = "adabet-onnx/progress";

        /// <summary>Write a delta or, with a place, progress.</summary>
        public static void Write(string path, Description about, string package, Entry entry, byte[] state, Place place)
        {
            var tensors = entry.Tensors.Take(place == null ? entry.KeptCount : entry.Tensors.Count).ToList();
            var metadata = new List<KeyValuePair<string, string>>();
            Action<string, object> put = (key, value) =>
                metadata.Add(new KeyValuePair<string, string>(key, Convert.ToString(value, CultureInfo.InvariantCulture)));
            put("format", place == null ? Delta : Progress);
            put("version", 1);
            put("model_sha256", about.ModelSha256);
            put("entry", entry.Name);
            put("sha256", Hash(state, tensors.Select(tensor => new KeyValuePair<int, int>(tensor.Offset, tensor.Bytes))));
            if (place != null)
            {
                put("package", package);
                put("epoch", place.Epoch);
                put("step", place.Step);
                put("seed", place.Seed);
                put("batch_size", place.BatchSize);
            }
            byte[] header = SafeTensors.Header(metadata, tensors);
            WholeFile.Write(path, stream =>
            {
                stream.Write(header, 0, header.Length);
                foreach (var tensor in tensors) stream.Write(state, tensor.Offset, tensor.Bytes);
            });
        }

        private static string Hash(byte[] bytes, IEnumerable<KeyValuePair<int, int>> parts)
        {
            using (var sha = SHA256.Create())
            {
                foreach (var part in parts) sha.TransformBlock(bytes, part.Key, part.Value, bytes, part.Key);
                sha.TransformFinalBlock(new byte[0], 0, 0);
                return PackageFiles.Hex(sha.Hash);
            }
        }

        /// <summary>A delta or progress, checked against package and entry.</summary>
        /// <param name="progressOnly">reject a delta</param>
        /// <param name="place">position in training; null for a delta</param>
        /// <returns>the state, with zeros for tensors that are not in the file</returns>
        public static byte[] Read(string path, Description about, string package, Entry entry, bool progressOnly, out Place place)
        {
            string what = Path.GetFileName(path);
            var file = Open(path, entry.Tensors.Sum(tensor => (long)tensor.Bytes));
            bool progress = CheckFormat(file, what, progressOnly);
            Expect(file, what, "model_sha256", about.ModelSha256, "It belongs to another model");
            Expect(file, what, "entry", entry.Name, "It is for another choice of layers: train that one");
            place = null;
            if (progress)
            {
                Expect(file, what, "package", package, "It belongs to another package: start again");
                place = new Place(Whole(file, what, "epoch", 0, Checked.Most), Whole(file, what, "step", 0, Checked.Most),
                    (uint)Whole(file, what, "seed", 0, uint.MaxValue), (int)Whole(file, what, "batch_size", 1, Describe.MostSamples));
            }
            string found = Hash(file.Bytes, new[] { new KeyValuePair<int, int>(file.DataBegin, file.DataBytes) });
            string expected = Metadata(file, "sha256");
            if (found != expected)
                throw new DeviceException(DeviceError.WrongHash,
                    $"{what} has data of the SHA-256 {found}, expected {Shown(expected)}: it is damaged. Download it again.");
            int count = progress ? entry.Tensors.Count : entry.KeptCount;
            byte[] state = Take(file, what, entry, count);
            State.CheckFinite(entry, state, count, DeviceError.NotFinite, $"{what} is damaged: download it again.");
            return state;
        }

        /// <summary>The entry of the package that a file belongs to.</summary>
        public static Entry EntryOf(string path, Description about)
        {
            string what = Path.GetFileName(path);
            var file = Open(path, about.Entries.Max(entry => entry.Tensors.Sum(tensor => (long)tensor.Bytes)));
            Expect(file, what, "model_sha256", about.ModelSha256, "It belongs to another model");
            string name = Metadata(file, "entry");
            return about.Entries.FirstOrDefault(entry => entry.Name == name) ?? throw new DeviceException(DeviceError.WrongModel,
                $"{what} is for the entry {Json.Shown(name)}, which the package does not have.");
        }

        private static SafeTensors Open(string path, long dataBytes)
        {
            string what = Path.GetFileName(path);
            if (string.IsNullOrEmpty(what)) throw new DeviceException(DeviceError.WrongOption, $"{Json.Shown(path)} is not the path of a file.");
            return new SafeTensors(PackageFiles.ReadAll(path, what, Math.Min(8L + Json.MostBytes + dataBytes, DType.MostBytes)), what);
        }

        private static string Metadata(SafeTensors file, string key)
        {
            return file.Metadata.TryGetValue(key, out string found) ? found : null;
        }

        private static string Shown(string found)
        {
            return found == null ? "one in its metadata" : Json.Shown(found);
        }

        private static bool CheckFormat(SafeTensors file, string what, bool progressOnly)
        {
            string format = Metadata(file, "format"), version = Metadata(file, "version");
            if (version == "1" && (format == Progress || (format == Delta && !progressOnly))) return format == Progress;
            throw new DeviceException(DeviceError.WrongFile, $"{what} has the format {Json.Shown(format)}, version {Json.Shown(version)}, "
                + $"expected {(progressOnly ? "" : Delta + " or ")}{Progress}, version 1.");
        }

        private static void Expect(SafeTensors file, string what, string key, string expected, string why)
        {
            string found = Metadata(file, key);
            if (found != expected)
                throw new DeviceException(DeviceError.WrongModel,
                    $"{what} has the {key} {Json.Shown(found)}, expected {Json.Shown(expected)}. {why}.");
        }

        private static long Whole(SafeTensors file, string what, string key, long least, long most)
        {
            string text = Metadata(file, key);
            if (text != null && text.Length < 16
                && long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number) && number >= least && number <= most)
                return number;
            throw new DeviceException(DeviceError.WrongFile,
                $"{what} has the {key} {Json.Shown(text)}, expected a whole number from {least} to {most}. Start again.");
        }

        private static byte[] Take(SafeTensors file, string what, Entry entry, int count)
        {
            if (file.Tensors.Count != count)
                throw new DeviceException(DeviceError.WrongShape, $"{what} has {file.Tensors.Count} tensors, expected {count}.");
            byte[] state = Block.Room(entry.StateBytes, "the trained values");
            foreach (var tensor in entry.Tensors.Take(count))
            {
                if (!file.Tensors.TryGetValue(tensor.Name, out StoredTensor found))
                    throw new DeviceException(DeviceError.WrongShape, $"{what} has no tensor {Json.Shown(tensor.Name)}.");
                if (found.Dtype != "F32" || !found.Shape.SequenceEqual(tensor.Shape) || found.End - found.Begin != tensor.Bytes)
                    throw new DeviceException(DeviceError.WrongShape, $"{what} has {Json.Shown(tensor.Name)} as {found.Dtype} "
                        + $"{DType.Shown(found.Shape)} of {found.End - found.Begin} bytes, expected F32 {DType.Shown(tensor.Shape)} of {tensor.Bytes}.");
                Buffer.BlockCopy(file.Bytes, file.DataBegin + (int)found.Begin, state, tensor.Offset, tensor.Bytes);
            }
            return state;
        }
    }
}
