using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using System.Threading;
using System.Threading.Tasks;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>How graphs are run.</summary>
    public sealed class OpenOptions
    {
        /// <summary>Threads per operator.</summary>
        public int Threads { get; set; } = 1;

        /// <summary> Called with its file before a graph is opened, for example to add execution providers for a frozen
        /// graph. Scoring always runs on the CPU.
        /// </summary>
        public Action<SessionOptions, string> Configure { get; set; }
    }

    /// <summary> A device package: a folder that `adabet-onnx device` or `menu` wrote. device.json is checked when it
    /// is opened, the other files before each use. Several threads may use it.
    /// </summary>
    public sealed class DevicePackage : IDisposable
    {
        private readonly Lifetime lifetime = new Lifetime();
        private readonly PackageFiles files;
        private readonly Runtime runtime;

        private DevicePackage(string folder, byte[] json, OpenOptions options)
        {
            Description = Describe.From(json);
            using (var sha = SHA256.Create()) Sha256 = PackageFiles.Hex(sha.ComputeHash(json));
            files = new PackageFiles(folder, Description);
            runtime = new Runtime(files, Description, options);
        }

        /// <summary>The content of device.json.</summary>
        public Description Description { get; }

        /// <summary>SHA-256 of device.json.</summary>
        public string Sha256 { get; }

        /// <summary>Version of ONNX Runtime, such as 1.24.1.</summary>
        public string RuntimeVersion => OrtEnv.Instance().GetVersionString();

        /// <summary>Open a package, and check all files and the version of the runtime.</summary>
        /// <param name="folder">folder with device.json</param>
        /// <exception cref="DeviceException">it is not a package, is damaged, or needs a newer runtime</exception>
        public static Task<DevicePackage> OpenAsync(string folder, OpenOptions options = null, CancellationToken token = default(CancellationToken))
        {
            if (folder == null) throw new ArgumentNullException(nameof(folder));
            options = options ?? new OpenOptions();
            if (options.Threads < 1) throw new DeviceException(DeviceError.WrongOption, $"Threads is {options.Threads}, expected at least 1.");
            return Background.Run("opening the package", token, () =>
            {
                if (!BitConverter.IsLittleEndian) throw new DeviceException(DeviceError.Runtime, "This machine is not little-endian.");
                byte[] json = PackageFiles.ReadAll(Path.Combine(folder, Describe.File), Describe.File, Json.MostBytes);
                var package = new DevicePackage(folder, json, options);
                foreach (var file in package.Description.Files)
                {
                    token.ThrowIfCancellationRequested();
                    package.files.CheckedPath(file.Name);
                }
                Runtime.Check(package.Description);
                return package;
            });
        }

        /// <summary> The names of the files beside device.json: for programs that copy a package out of their assets
        /// before opening it, since the runtime reads files.
        /// </summary>
        /// <param name="json">content of device.json</param>
        public static IReadOnlyList<string> FilesOf(byte[] json)
        {
            if (json == null) throw new ArgumentNullException(nameof(json));
            return Describe.From(json).Files.Select(file => file.Name).ToList();
        }

        /// <summary>Score the package's layers; labels are not needed.</summary>
        /// <exception cref="DeviceException">there are too few samples, or an activation is not finite</exception>
        public Task<IReadOnlyList<LayerScore>> ScoreAsync(Samples samples, IProgress<ScoreReport> progress = null,
            CancellationToken token = default(CancellationToken))
        {
            if (samples == null) throw new ArgumentNullException(nameof(samples));
            return lifetime.Run("scoring", token, inner =>
                new Scoring(runtime, Description, new DataSet(Description, samples)).Run(progress, inner));
        }

        /// <summary>The entry with the highest score among those that can be trained in so much memory.</summary>
        /// <param name="scores">scores of layers; a layer without a score counts 0</param>
        /// <param name="memory">bytes; null for no limit</param>
        /// <param name="batchSize">null for the package's own</param>
        /// <exception cref="DeviceException">OutOfMemory: none fits; the message states the memory of the
        /// smallest</exception>
        public Candidate Choose(IEnumerable<LayerScore> scores, long? memory = null, int? batchSize = null)
        {
            if (scores == null) throw new ArgumentNullException(nameof(scores));
            var byName = new Dictionary<string, double>(StringComparer.Ordinal);
            foreach (var layer in scores) byName[layer.Name] = layer.Score;
            return Choosing.Choose(Description.Entries, byName, memory, batchSize ?? Description.Training.BatchSize);
        }

        /// <summary>An entry with its initial values, ready to be trained or to predict.</summary>
        /// <param name="entry">its name; null if the package has only one</param>
        public Task<Training> TrainingAsync(string entry = null, CancellationToken token = default(CancellationToken))
        {
            var found = Description.Entries.FirstOrDefault(one => one.Name == entry);
            if (entry == null && Description.Entries.Count == 1) found = Description.Entries[0];
            if (found == null)
                throw new DeviceException(DeviceError.WrongOption, $"The package has no entry {Json.Shown(entry)}, it has "
                    + string.Join(", ", Description.Entries.Select(one => Json.Shown(one.Name))) + ".");
            return lifetime.Run("reading the initial values", token,
                inner => lifetime.Add(new Training(runtime, files, Description, Sha256, found, lifetime.Remove)));
        }

        /// <summary>Load a delta or progress file, with its entry.</summary>
        /// <param name="path">path of the file</param>
        /// <exception cref="DeviceException">the file belongs to another model or package, is damaged, or does not
        /// exist</exception>
        public Task<Training> LoadAsync(string path, CancellationToken token = default(CancellationToken))
        {
            if (path == null) throw new ArgumentNullException(nameof(path));
            return lifetime.Run("reading what was saved", token, inner =>
            {
                var training = new Training(runtime, files, Description, Sha256, Carried.EntryOf(path, Description), lifetime.Remove);
                training.Load(path);
                return lifetime.Add(training);
            });
        }

        /// <summary>Raw numbers of whole samples, such as pixels from 0 to 255, in the form of the model's
        /// input.</summary>
        /// <param name="raw">colours in the order red, green, blue</param>
        /// <param name="input">index of the input</param>
        public float[] Preprocess(float[] raw, int input = 0)
        {
            if (input < 0 || input >= Description.Inputs.Count)
                throw new DeviceException(DeviceError.WrongOption, $"There is no input {input}; the model has {Description.Inputs.Count}.");
            return Preprocessor.Fed(raw, Description.Inputs[input], Description.Preprocessing);
        }

        /// <summary>Cancel running operations, and dispose of all trainings.</summary>
        public void Dispose()
        {
            lifetime.Dispose();
        }
    }
}
