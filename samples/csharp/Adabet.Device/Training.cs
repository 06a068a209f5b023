using System;
using System.Collections.Generic;
using System.IO;
using System.Threading;
using System.Threading.Tasks;

namespace Adabet.Device
{
    /// <summary> An entry of a package with the values of the last complete epoch, however training ended. Several
    /// threads may use it: during training, it predicts, evaluates and saves with the values of the last complete
    /// epoch.
    /// </summary>
    public sealed class Training : IDisposable
    {
        private readonly Lifetime lifetime = new Lifetime();
        private readonly object gate = new object();
        private readonly Runtime runtime;
        private readonly PackageFiles files;
        private readonly Description about;
        private readonly string package;
        private readonly Action<Training> disposed;
        private byte[] state; // accessed only under the lock
        private Place place;
        private bool busy;
        private Predictor predictor;

        internal Training(Runtime runtime, PackageFiles files, Description about, string package, Entry entry, Action<Training> disposed)
        {
            this.runtime = runtime;
            this.files = files;
            this.about = about;
            this.package = package;
            this.disposed = disposed;
            Entry = entry;
            state = State.Initial(files, entry);
            place = Start();
        }

        /// <summary>The choice of layers.</summary>
        public Entry Entry { get; }

        /// <summary>Complete epochs so far.</summary>
        public long Epoch => Where().Epoch;

        /// <summary>Steps so far, of complete epochs.</summary>
        public long Step => Where().Step;

        /// <summary>Train. After a cancellation or an error, the values are those of the last complete epoch, and
        /// training can be resumed.</summary>
        /// <exception cref="DeviceException">the data does not match the model, the loss is not finite, a file cannot
        /// be written, ...</exception>
        public Task<IReadOnlyList<EpochReport>> FitAsync(Labelled data, FitOptions options = null, CancellationToken token = default(CancellationToken))
        {
            if (data == null) throw new ArgumentNullException(nameof(data));
            var given = options ?? new FitOptions();
            return lifetime.Run("training", token, inner => Alone(() => Fit(data, given, inner)));
        }

        /// <summary>Loss and accuracy.</summary>
        public Task<Evaluation> EvaluateAsync(Labelled data, int? batchSize = null, CancellationToken token = default(CancellationToken))
        {
            if (data == null) throw new ArgumentNullException(nameof(data));
            return lifetime.Run("evaluating", token, inner =>
            {
                var now = Now();
                using (var stop = new RunStop(inner))
                using (var evaluator = new Evaluator(runtime, about, Entry, new DataSet(about, data), Size(batchSize, now.Value), false, stop))
                using (var values = new StateTensors(Entry, now.Key, Entry.KeptCount))
                    return evaluator.Run(values.Values, stop);
            });
        }

        /// <summary>The model's outputs.</summary>
        public Task<IReadOnlyList<Output>> PredictAsync(Samples samples, int? batchSize = null, CancellationToken token = default(CancellationToken))
        {
            if (samples == null) throw new ArgumentNullException(nameof(samples));
            return lifetime.Run("predicting", token, inner =>
            {
                var now = Now();
                using (var stop = new RunStop(inner))
                    return OpenPredictor().Run(now.Key, new DataSet(about, samples), Size(batchSize, now.Value), stop);
            });
        }

        /// <summary>Write the trained values as a delta, a file to be sent.</summary>
        public Task SaveDeltaAsync(string path, CancellationToken token = default(CancellationToken))
        {
            return Save("saving the delta", token, (values, _) => Carried.Write(path, about, package, Entry, values, null));
        }

        /// <summary>Write everything needed to resume an interrupted training.</summary>
        public Task SaveProgressAsync(string path, CancellationToken token = default(CancellationToken))
        {
            return Save("saving progress", token, (values, at) => Carried.Write(path, about, package, Entry, values, at));
        }

        /// <summary>Write the file that the personal model reads, Entry.Selected.</summary>
        public Task SaveSelectedAsync(string path, CancellationToken token = default(CancellationToken))
        {
            return Save("saving the trained tensors", token, (values, _) => WriteSelected(path, values));
        }

        /// <summary>Write the personal model: an ordinary ONNX model and the files that it reads.</summary>
        public Task SaveModelAsync(string folder, CancellationToken token = default(CancellationToken))
        {
            if (folder == null) throw new ArgumentNullException(nameof(folder));
            return Save("saving the personal model", token, (values, _) =>
            {
                if (Entry.Model == null)
                    throw new DeviceException(DeviceError.WrongOption, "A package of .ort files has no personal model: save the delta, and predict with it.");
                Make(folder);
                foreach (string name in new[] { Entry.Model, about.Weights })
                {
                    if (name == null) continue;
                    byte[] bytes = files.Read(name);
                    WholeFile.Write(Path.Combine(folder, name), stream => stream.Write(bytes, 0, bytes.Length));
                }
                WriteSelected(Path.Combine(folder, Entry.Selected), values);
            });
        }

        /// <summary>Load a delta of the same model and entry, or resume from progress of the same package.</summary>
        /// <exception cref="DeviceException">it belongs to another one, is damaged, or does not exist; then nothing
        /// changes</exception>
        public Task LoadAsync(string path, CancellationToken token = default(CancellationToken))
        {
            if (path == null) throw new ArgumentNullException(nameof(path));
            return lifetime.Run("reading what was saved", token, inner => Alone(() => Load(path)));
        }

        internal bool Load(string path)
        {
            byte[] values = Carried.Read(path, about, package, Entry, false, out Place at);
            return Replace(values, at ?? Start());
        }

        /// <summary>Restore the package's initial values.</summary>
        public Task ResetAsync(CancellationToken token = default(CancellationToken))
        {
            return lifetime.Run("reading the initial values", token, inner => Alone(() => Replace(State.Initial(files, Entry), Start())));
        }

        /// <summary>Cancel running operations, and free all resources.</summary>
        public void Dispose()
        {
            disposed(this);
            lifetime.Dispose();
        }

        private Place Start()
        {
            return new Place(0, 0, about.Training.Seed, about.Training.BatchSize);
        }

        private Place Where()
        {
            lock (gate) return place;
        }

        /// <summary>A copy of the values, and their position in training.</summary>
        private KeyValuePair<byte[], Place> Now()
        {
            lock (gate) return new KeyValuePair<byte[], Place>((byte[])state.Clone(), place);
        }

        private bool Replace(byte[] values, Place at)
        {
            lock (gate)
            {
                state = values;
                place = at;
            }
            return true;
        }

        /// <summary>Copy the values after an epoch without allocating memory.</summary>
        private void Keep(byte[] values, Place at)
        {
            lock (gate)
            {
                Buffer.BlockCopy(values, 0, state, 0, state.Length);
                place = at;
            }
        }

        /// <summary>Run an action that changes the values, when no other does.</summary>
        private T Alone<T>(Func<T> work)
        {
            lock (gate)
            {
                if (busy) throw new DeviceException(DeviceError.Busy, $"The entry {Json.Shown(Entry.Name)} is being trained: wait, or cancel that first.");
                busy = true;
            }
            try
            {
                return work();
            }
            finally
            {
                lock (gate) busy = false;
            }
        }

        private static int Size(int? given, Place now)
        {
            int size = given ?? now.BatchSize;
            if (size >= 1 && size <= Describe.MostSamples) return size;
            throw new DeviceException(DeviceError.WrongOption, $"The batch size is {size}, expected 1 to {Describe.MostSamples}.");
        }

        private IReadOnlyList<EpochReport> Fit(Labelled data, FitOptions given, CancellationToken token)
        {
            var wanted = Checked(given);
            bool resumed = given.ProgressFile != null && File.Exists(given.ProgressFile);
            if (resumed)
            {
                byte[] values = Carried.Read(given.ProgressFile, about, package, Entry, true, out Place at);
                CheckSame(given.ProgressFile, at, new Place(at.Epoch, at.Step, given.Seed ?? about.Training.Seed, given.BatchSize ?? about.Training.BatchSize));
                Replace(values, at);
            }
            var now = Where();
            var begin = new Place(now.Epoch, now.Step, given.Seed ?? now.Seed, Size(given.BatchSize, now));
            var done = new List<EpochReport>();
            using (var stop = new RunStop(token))
            using (var fitting = new Fitting(runtime, about, Entry, state, data, begin, wanted, stop))
            {
                if (resumed)
                    CheckSame(given.ProgressFile, begin, new Place(begin.Epoch, begin.Epoch * fitting.StepsPerEpoch, begin.Seed, begin.BatchSize));
                while (fitting.Place.Epoch < wanted.Epochs)
                {
                    done.Add(fitting.Epoch((values, at) =>
                    {
                        Keep(values, at);
                        if (wanted.ProgressFile != null) Carried.Write(wanted.ProgressFile, about, package, Entry, values, at);
                    }));
                    wanted.EpochDone?.Report(done[done.Count - 1]);
                }
            }
            return done;
        }

        private FitOptions Checked(FitOptions given)
        {
            double rate = given.LearningRate ?? about.Training.LearningRate;
            int epochs = given.Epochs ?? about.Training.Epochs;
            if (!(rate > 0) || double.IsInfinity(rate))
                throw new DeviceException(DeviceError.WrongOption, $"The learning rate is {rate}, expected a number above 0.");
            if (epochs < 1) throw new DeviceException(DeviceError.WrongOption, $"Epochs is {epochs}, expected at least 1.");
            return new FitOptions
            {
                Epochs = epochs,
                LearningRate = rate,
                ProgressFile = given.ProgressFile,
                HeldOut = given.HeldOut,
                KeepFeatures = given.KeepFeatures,
                Pause = given.Pause,
                StepDone = given.StepDone,
                EpochDone = given.EpochDone
            };
        }

        private static void CheckSame(string path, Place found, Place expected)
        {
            if (found.Seed == expected.Seed && found.BatchSize == expected.BatchSize && found.Step == expected.Step) return;
            throw new DeviceException(DeviceError.WrongModel, $"{path} belongs to another training run: seed {found.Seed}, batch size {found.BatchSize}, "
                + $"{found.Step} steps after epoch {found.Epoch}; expected seed {expected.Seed}, batch size {expected.BatchSize}, "
                + $"{expected.Step} steps. Delete it to start again.");
        }

        private Task Save(string doing, CancellationToken token, Action<byte[], Place> write)
        {
            return lifetime.Run(doing, token, inner =>
            {
                var now = Now();
                write(now.Key, now.Value);
                return true;
            });
        }

        private void WriteSelected(string path, byte[] values)
        {
            WholeFile.Write(path, stream => stream.Write(values, 0, Entry.SelectedBytes));
        }

        private static void Make(string folder)
        {
            try
            {
                Directory.CreateDirectory(folder);
            }
            catch (Exception error) when (error is IOException || error is UnauthorizedAccessException
                || error is ArgumentException || error is NotSupportedException)
            {
                throw new DeviceException(DeviceError.Storage, $"The folder {folder} cannot be created: {DeviceException.Sentence(error)}", error);
            }
        }

        private Predictor OpenPredictor()
        {
            lock (lifetime)
                return predictor ?? (predictor = lifetime.Add(new Predictor(runtime, about, Entry)));
        }
    }
}
