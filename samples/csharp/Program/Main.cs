using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Threading;

namespace Adabet.Device.Program
{
    /// <summary>The library from the command line; see Usage.</summary>
    internal static class AdabetDevice
    {
        private const string Usage = @"usage: adabet-device PACKAGE COMMAND [OPTIONS], with raw little-endian files as data

  show                                                describes the package
  score   --x FILE [--memory BYTES] [--batch N]       scores the layers and chooses an entry
  fit     --x FILE --y FILE [--entry NAME] [--rate R] [--batch N] [--epochs N] [--seed N] [--progress FILE]
          [--held-x FILE --held-y FILE] [--delta FILE] [--selected FILE] [--model FOLDER] [--keep no] [--stop STEP]
  predict --x FILE --out FILE [--from FILE]           with a delta or progress file, or initial values
  save    --from FILE [--delta FILE] [--selected FILE] [--model FOLDER]

With --raw yes, the numbers of --x and --held-x are preprocessed as the package defines. For a model with several inputs,
give --x (and --held-x) once for each; for several outputs, --out. --threads N sets the threads of ONNX Runtime. fit
prints the loss of each step, and a line for each epoch; without --entry, it trains the first entry; --keep no computes
the frozen part again for each batch. Ctrl-C stops it.";

        private static readonly CultureInfo Invariant = CultureInfo.InvariantCulture;
        private static readonly CancellationTokenSource Ended = new CancellationTokenSource();

        private static int Main(string[] words)
        {
            Console.CancelKeyPress += (_, key) =>
            {
                key.Cancel = true;
                Ended.Cancel();
            };
            try
            {
                if (words.Length < 2) throw new UsageException(Usage);
                Run(words[0], words[1], new Options(words.Skip(2).ToList()));
                return 0;
            }
            catch (UsageException error)
            {
                Console.Error.WriteLine("usage: " + error.Message);
                return 64;
            }
            catch (DeviceException error)
            {
                Console.Error.WriteLine(error.Error + ": " + error.Message);
                return 1 + (int)error.Error;
            }
            catch (OperationCanceledException)
            {
                Console.Error.WriteLine("Cancelled: the values of the last complete epoch are in the progress file, if one was given.");
                return 63;
            }
        }

        private static void Run(string folder, string command, Options options)
        {
            var open = new OpenOptions { Threads = options.Int("threads") ?? 1 };
            using (var package = DevicePackage.OpenAsync(folder, open, Ended.Token).GetAwaiter().GetResult())
            {
                if (command == "show") Show(package);
                else if (command == "score") Score(package, options);
                else if (command == "fit") Fit(package, options);
                else if (command == "predict") Predict(package, options);
                else if (command == "save") Save(package, options);
                else throw new UsageException($"{command} is not a command.");
            }
        }

        private static void Show(DevicePackage package)
        {
            var about = package.Description;
            Func<IEnumerable<long>, string> shown = shape => string.Join(", ", shape.Select(n => n == -1 ? "N" : n.ToString(Invariant)));
            Console.WriteLine($"model {about.Model}");
            Console.WriteLine($"onnxruntime {package.RuntimeVersion}");
            foreach (var port in about.Inputs) Console.WriteLine($"input {port.Name} {port.Dtype} [{shown(port.Shape)}]");
            foreach (var port in about.Outputs) Console.WriteLine($"output {port.Name} {port.Dtype} [{string.Join(", ", port.Shape)}]");
            Console.WriteLine($"labels {about.Labels.Dtype} [{shown(about.Labels.Shape)}]");
            foreach (var entry in about.Entries)
            {
                Console.WriteLine($"entry {entry.Name}: {entry.Layers.Count} layers, {entry.Trained} numbers, {entry.SelectedBytes} bytes to "
                    + $"send, {entry.NeededBytes(8)} bytes of memory at a batch size of 8");
                foreach (string layer in entry.Layers) Console.WriteLine("  " + layer);
            }
        }

        private static void Score(DevicePackage package, Options options)
        {
            var scores = package.ScoreAsync(SamplesFrom(package, options, "x"), null, Ended.Token).GetAwaiter().GetResult();
            foreach (var layer in scores) Console.WriteLine($"{layer.Score.ToString("R", Invariant)} {layer.Name}");
            Console.WriteLine("choice " + package.Choose(scores, options.Long("memory"), options.Int("batch")).Entry);
        }

        private static void Fit(DevicePackage package, Options options)
        {
            long? last = options.Long("stop");
            var given = new FitOptions
            {
                Epochs = options.Int("epochs"),
                BatchSize = options.Int("batch"),
                LearningRate = options.Double("rate"),
                Seed = options.UInt("seed"),
                ProgressFile = options.Text("progress"),
                KeepFeatures = options.Flag("keep", true),
                HeldOut = options.Text("held-x") == null ? null : LabelledFrom(package, options, "held-"),
                StepDone = new Told<StepReport>(step =>
                {
                    Console.WriteLine(step.Loss.ToString("R", Invariant));
                    if (step.Step == last) Ended.Cancel();
                }),
                EpochDone = new Told<EpochReport>(epoch => Console.WriteLine($"epoch {epoch.Epoch} loss {epoch.Loss.ToString("R", Invariant)}"
                    + Shown(" held-out loss ", epoch.HeldOut?.Loss) + Shown(" accuracy ", epoch.HeldOut?.Accuracy)))
            };
            var data = LabelledFrom(package, options, "");
            string entry = options.Text("entry") ?? package.Description.Entries[0].Name;
            using (var training = package.TrainingAsync(entry, Ended.Token).GetAwaiter().GetResult())
            {
                training.FitAsync(data, given, Ended.Token).GetAwaiter().GetResult();
                SaveTo(training, options);
            }
        }

        private static string Shown(string what, double? number)
        {
            return number == null ? "" : what + number.Value.ToString("R", Invariant);
        }

        private static Training From(DevicePackage package, Options options)
        {
            string from = options.Text("from"), entry = options.Text("entry") ?? package.Description.Entries[0].Name;
            return (from != null ? package.LoadAsync(from, Ended.Token) : package.TrainingAsync(entry, Ended.Token)).GetAwaiter().GetResult();
        }

        private static void Predict(DevicePackage package, Options options)
        {
            var paths = options.All("out");
            if (paths.Count == 0 || paths.Count > package.Description.Outputs.Count)
                throw new UsageException("--out can be given at most once per output.");
            using (var training = From(package, options))
            {
                var samples = SamplesFrom(package, options, "x");
                var outputs = training.PredictAsync(samples, options.Int("batch"), Ended.Token).GetAwaiter().GetResult();
                for (int i = 0; i < paths.Count; i++) Write(paths[i], outputs[i].Bytes);
            }
        }

        private static void Save(DevicePackage package, Options options)
        {
            options.Needed("from");
            using (var training = From(package, options)) SaveTo(training, options);
        }

        private static void SaveTo(Training training, Options options)
        {
            string delta = options.Text("delta"), selected = options.Text("selected"), model = options.Text("model");
            if (delta != null) training.SaveDeltaAsync(delta).GetAwaiter().GetResult();
            if (selected != null) training.SaveSelectedAsync(selected).GetAwaiter().GetResult();
            if (model != null) training.SaveModelAsync(model).GetAwaiter().GetResult();
        }

        private static Labelled LabelledFrom(DevicePackage package, Options options, string part)
        {
            return new Labelled(SamplesFrom(package, options, part + "x"), Read(options.Needed(part + "y")));
        }

        private static Samples SamplesFrom(DevicePackage package, Options options, string name)
        {
            var paths = options.All(name);
            var inputs = package.Description.Inputs;
            if (paths.Count != inputs.Count) throw new UsageException($"--{name} must be given once for each of the {inputs.Count} inputs.");
            var found = new Dictionary<string, Array>();
            for (int i = 0; i < paths.Count; i++)
                found[inputs[i].Name] = options.Flag("raw", false) ? package.Preprocess(Floats(Read(paths[i])), i) : (Array)Read(paths[i]);
            return new Samples(found);
        }

        private static float[] Floats(byte[] bytes)
        {
            var numbers = new float[bytes.Length / 4];
            Buffer.BlockCopy(bytes, 0, numbers, 0, 4 * numbers.Length);
            return numbers;
        }

        private static byte[] Read(string path)
        {
            try
            {
                return File.ReadAllBytes(path);
            }
            catch (Exception error) when (error is IOException || error is UnauthorizedAccessException)
            {
                throw new UsageException($"{path} cannot be read: {error.Message}");
            }
        }

        private static void Write(string path, byte[] bytes)
        {
            try
            {
                File.WriteAllBytes(path, bytes);
            }
            catch (Exception error) when (error is IOException || error is UnauthorizedAccessException)
            {
                throw new UsageException($"{path} cannot be written: {error.Message}");
            }
        }

        /// <summary>Reports synchronously, on the thread that trains.</summary>
        private sealed class Told<T> : IProgress<T>
        {
            private readonly Action<T> tell;

            public Told(Action<T> tell)
            {
                this.tell = tell;
            }

            public void Report(T value)
            {
                tell(value);
            }
        }
    }
}
