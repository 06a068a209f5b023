using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;
using Adabet.Device;

/// <summary>Checks of cancelling, pausing, disposing and so on: each prints a line.</summary>
internal sealed class Behaviour
{
    private readonly DevicePackage package;
    private readonly Labelled data;
    private readonly string folder;

    private Behaviour(DevicePackage package, Labelled data, string folder)
    {
        this.package = package;
        this.data = data;
        this.folder = folder;
    }

    public static void Run(string path, string x, string y, string folder)
    {
        var data = new Labelled(new Samples(File.ReadAllBytes(x)), File.ReadAllBytes(y));
        var checks = new Dictionary<string, Action<Behaviour>>
        {
            { "cancelled in an epoch, it goes on with the same bits", one => one.Cancelled() },
            { "resumed from a file, it goes on with the same bits", one => one.Resumed() },
            { "features that are not kept give nearly the same", one => one.NotKept() },
            { "a pause stops it, and can be cancelled", one => one.Paused() },
            { "while it trains it predicts with the last epoch, and refuses to change", one => one.Busy() },
            { "disposed of, it ends", one => one.Disposed() },
            { "a loss that is not finite leaves the last epoch", one => one.Diverged() },
            { "arrays of any kind are taken, others refused", one => one.Arrays() },
            { "wrong options are refused", one => one.Options() },
            { "a place that cannot be written is an error", one => one.Storage() },
            { "what is saved can be loaded", one => one.Saved() },
            { "scoring can be cancelled and is told of", one => one.Scored() },
            { "memory stays flat", one => one.Flat() }
        };
        foreach (var check in checks)
        {
            using (var package = DevicePackage.OpenAsync(path).GetAwaiter().GetResult())
                check.Value(new Behaviour(package, data, folder));
            Console.WriteLine(check.Key);
        }
    }

    private static void Same(object found, object expected)
    {
        if (!Equals(found, expected)) throw new InvalidOperationException($"found {found}, expected {expected}\n{Environment.StackTrace}");
    }

    private static void True(bool holds)
    {
        Same(holds, true);
    }

    private static DeviceException Fails(DeviceError error, Func<Task> work)
    {
        try
        {
            work().GetAwaiter().GetResult();
        }
        catch (DeviceException found)
        {
            Same(found.Error, error);
            return found;
        }
        throw new InvalidOperationException($"no {error}");
    }

    private static void Throws<T>(Func<Task> work) where T : Exception
    {
        try
        {
            work().GetAwaiter().GetResult();
        }
        catch (T)
        {
            return;
        }
        throw new InvalidOperationException("no " + typeof(T).Name);
    }

    private Training Begin()
    {
        return package.TrainingAsync().GetAwaiter().GetResult();
    }

    private static FitOptions Options(int epochs, Action<StepReport> step = null)
    {
        return new FitOptions { Epochs = epochs, BatchSize = 16, LearningRate = 0.005, Seed = 3, StepDone = step == null ? null : new Told<StepReport>(step) };
    }

    private string Values(Training training, string name = "values")
    {
        string path = Path.Combine(folder, name);
        training.SaveProgressAsync(path).GetAwaiter().GetResult();
        return Convert.ToBase64String(File.ReadAllBytes(path));
    }

    private string TwoEpochs()
    {
        using (var training = Begin())
        {
            var done = training.FitAsync(data, Options(2)).GetAwaiter().GetResult();
            Same(done.Count, 2);
            Same(training.Epoch, 2L);
            return Values(training);
        }
    }

    private void Cancelled()
    {
        using (var training = Begin())
        using (var stop = new CancellationTokenSource())
        {
            Throws<OperationCanceledException>(() => training.FitAsync(data, Options(2, step =>
            {
                if (step.Epoch == 2 && step.Step == step.StepsPerEpoch + 3) stop.Cancel();
            }), stop.Token));
            Same(training.Epoch, 1L);
            Same(training.FitAsync(data, Options(2)).GetAwaiter().GetResult().Count, 1);
            Same(Values(training), TwoEpochs());
        }
    }

    private void Resumed()
    {
        string path = Path.Combine(folder, "resumed");
        var options = Options(1);
        options.ProgressFile = path;
        using (var training = Begin()) training.FitAsync(data, options).GetAwaiter().GetResult();
        options.Epochs = 2;
        using (var training = Begin())
        {
            Same(training.FitAsync(data, options).GetAwaiter().GetResult().Count, 1);
            Same(Values(training), TwoEpochs());
            Same(training.FitAsync(data, options).GetAwaiter().GetResult().Count, 0);
        }
        options.BatchSize = 8;
        using (var training = Begin()) True(Fails(DeviceError.WrongModel, () => training.FitAsync(data, options)).Message.Contains("another training"));
    }

    private void NotKept()
    {
        var losses = new List<float>[2];
        for (int i = 0; i < 2; i++)
        {
            var found = losses[i] = new List<float>();
            var options = Options(1, step => found.Add(step.Loss));
            options.KeepFeatures = i == 0;
            using (var training = Begin()) training.FitAsync(data, options).GetAwaiter().GetResult();
        }
        for (int i = 0; i < losses[0].Count; i++) True(Math.Abs(losses[0][i] - losses[1][i]) < 1e-4);
    }

    private void Paused()
    {
        using (var training = Begin())
        using (var pause = new TrainingPause())
        using (var third = new ManualResetEventSlim())
        using (var stop = new CancellationTokenSource())
        {
            int steps = 0;
            var options = Options(50, step =>
            {
                if (++steps != 3) return;
                pause.Pause();
                third.Set();
            });
            options.Pause = pause;
            var fit = training.FitAsync(data, options, stop.Token);
            third.Wait();
            Thread.Sleep(200);
            Same(steps, 3);
            pause.Continue();
            while (steps < 10) Thread.Sleep(1);
            pause.Pause();
            stop.Cancel();
            Throws<OperationCanceledException>(() => fit);
        }
    }

    private void Busy()
    {
        using (var training = Begin())
        using (var pause = new TrainingPause())
        using (var stop = new CancellationTokenSource())
        using (var second = new ManualResetEventSlim())
        {
            var options = Options(3, step =>
            {
                if (step.Epoch != 2 || second.IsSet) return;
                pause.Pause();
                second.Set();
            });
            options.Pause = pause;
            var fit = training.FitAsync(data, options, stop.Token);
            second.Wait();
            Same(training.Epoch, 1L);
            string whole = Values(training);
            True(Fails(DeviceError.Busy, () => training.FitAsync(data)).Message.Contains("being trained"));
            Fails(DeviceError.Busy, () => training.LoadAsync(Path.Combine(folder, "values")));
            Fails(DeviceError.Busy, () => training.ResetAsync());
            byte[] during = training.PredictAsync(data.Samples).GetAwaiter().GetResult()[0].Bytes;
            stop.Cancel();
            Throws<OperationCanceledException>(() => fit);
            Same(Values(training), whole);
            True(training.PredictAsync(data.Samples).GetAwaiter().GetResult()[0].Bytes.SequenceEqual(during));
        }
    }

    private void Disposed()
    {
        var training = Begin();
        var started = new ManualResetEventSlim();
        var fit = training.FitAsync(data, Options(1000, step => started.Set()));
        started.Wait();
        package.Dispose();
        Throws<OperationCanceledException>(() => fit);
        Throws<ObjectDisposedException>(() => training.PredictAsync(data.Samples));
        Throws<ObjectDisposedException>(() => package.ScoreAsync(data.Samples));
        Throws<ObjectDisposedException>(() => package.TrainingAsync());
        training.Dispose();
        package.Dispose();
    }

    private void Diverged()
    {
        using (var training = Begin())
        {
            var options = Options(1);
            training.FitAsync(data, options).GetAwaiter().GetResult();
            string whole = Values(training);
            options.Epochs = 2;
            options.LearningRate = 1e30;
            True(Fails(DeviceError.LossNotFinite, () => training.FitAsync(data, options)).Message.Contains("learning rate below"));
            Same(Values(training), whole);
        }
    }

    private void Arrays()
    {
        byte[] bytes = File.ReadAllBytes(Path.Combine(folder, "x")), labels = (byte[])data.Labels;
        var numbers = new float[bytes.Length / 4];
        Buffer.BlockCopy(bytes, 0, numbers, 0, bytes.Length);
        var rows = new float[numbers.Length / 256, 256];
        Buffer.BlockCopy(bytes, 0, rows, 0, bytes.Length);
        var longs = new long[labels.Length / 8];
        Buffer.BlockCopy(labels, 0, longs, 0, labels.Length);
        string name = package.Description.Inputs[0].Name;
        using (var training = Begin())
        {
            byte[] expected = training.PredictAsync(data.Samples).GetAwaiter().GetResult()[0].Bytes;
            foreach (var samples in new[] { numbers, new Samples(rows), new Samples(new Dictionary<string, Array> { { name, numbers } }) })
                True(training.PredictAsync(samples, 7).GetAwaiter().GetResult()[0].Bytes.Length == expected.Length);
            double loss = training.EvaluateAsync(data).GetAwaiter().GetResult().Loss;
            Same(training.EvaluateAsync(new Labelled(numbers, longs)).GetAwaiter().GetResult().Loss, loss);
            Same(training.EvaluateAsync(new Labelled(numbers, longs.Select(label => (int)label).ToArray())).GetAwaiter().GetResult().Loss, loss);
            Fails(DeviceError.WrongShape, () => training.PredictAsync(new Samples(new double[256])));
            Fails(DeviceError.WrongShape, () => training.PredictAsync(new Samples(new float[255])));
            Fails(DeviceError.TooFewSamples, () => training.PredictAsync(new Samples(new float[0])));
            Fails(DeviceError.WrongShape, () => training.PredictAsync(new Samples(new Dictionary<string, Array>())));
            Fails(DeviceError.WrongShape, () => training.FitAsync(new Labelled(numbers, longs.Skip(1).ToArray())));
            Fails(DeviceError.WrongShape, () => training.FitAsync(new Labelled(numbers, new float[longs.Length])));
            longs[7] = 10;
            True(Fails(DeviceError.LabelOutOfRange, () => training.FitAsync(new Labelled(numbers, longs))).Message.Contains("Label 7 is 10, expected 0 to 9"));
            numbers[300] = float.NaN;
            True(Fails(DeviceError.NotFinite, () => package.ScoreAsync(numbers)).Message.Contains("Sample 1 makes the layer"));
            Fails(DeviceError.TooFewSamples, () => package.ScoreAsync(new float[7 * 256]));
        }
    }

    private void Options()
    {
        using (var training = Begin())
        {
            Fails(DeviceError.WrongOption, () => training.FitAsync(data, new FitOptions { Epochs = 0 }));
            Fails(DeviceError.WrongOption, () => training.FitAsync(data, new FitOptions { BatchSize = 0 }));
            Fails(DeviceError.WrongOption, () => training.FitAsync(data, new FitOptions { LearningRate = double.NaN }));
            Fails(DeviceError.WrongOption, () => training.FitAsync(data, new FitOptions { LearningRate = 0 }));
            Fails(DeviceError.WrongOption, () => training.PredictAsync(data.Samples, 0));
            Fails(DeviceError.WrongOption, () => package.TrainingAsync("nothing"));
            Fails(DeviceError.WrongFile, () => DevicePackage.OpenAsync(Path.Combine(folder, "nowhere")));
            Fails(DeviceError.WrongOption, () => DevicePackage.OpenAsync(folder, new OpenOptions { Threads = 0 }));
            var scores = package.ScoreAsync(data.Samples).GetAwaiter().GetResult();
            True(Fails(DeviceError.OutOfMemory, () => Task.FromResult(package.Choose(scores, 1))).Message.Contains("the smallest needs"));
        }
    }

    private void Storage()
    {
        string nowhere = Path.Combine(folder, "nowhere", "file");
        using (var training = Begin())
        {
            True(Fails(DeviceError.Storage, () => training.SaveDeltaAsync(nowhere)).Message.Contains("nowhere"));
            Fails(DeviceError.Storage, () => training.SaveModelAsync(Path.Combine(folder, "x", "inside")));
            var options = Options(1);
            options.ProgressFile = nowhere;
            Fails(DeviceError.Storage, () => training.FitAsync(data, options));
            Same(training.Epoch, 1L);
        }
    }

    private void Saved()
    {
        string delta = Path.Combine(folder, "one.delta");
        using (var training = Begin())
        using (var other = Begin())
        {
            string initial = Values(training);
            training.FitAsync(data, Options(1)).GetAwaiter().GetResult();
            training.SaveDeltaAsync(delta).GetAwaiter().GetResult();
            training.SaveDeltaAsync(delta).GetAwaiter().GetResult();
            other.LoadAsync(delta).GetAwaiter().GetResult();
            Same(other.Epoch, 0L);
            True(other.PredictAsync(data.Samples).GetAwaiter().GetResult()[0].Bytes.SequenceEqual(
                training.PredictAsync(data.Samples).GetAwaiter().GetResult()[0].Bytes));
            string all = Values(training);
            other.LoadAsync(Path.Combine(folder, "values")).GetAwaiter().GetResult();
            Same(Values(other), all);
            other.ResetAsync().GetAwaiter().GetResult();
            Same(Values(other), initial);
            True(Fails(DeviceError.WrongFile, () => other.LoadAsync(Path.Combine(folder, "nothing"))).Message.Contains("nothing"));
            var options = Options(1);
            options.ProgressFile = delta;
            Fails(DeviceError.WrongFile, () => other.FitAsync(data, options));
        }
    }

    private void Scored()
    {
        using (var stop = new CancellationTokenSource())
        {
            int last = 0;
            Throws<OperationCanceledException>(() => package.ScoreAsync(data.Samples, new Told<ScoreReport>(report =>
            {
                Same(report.Done, ++last);
                if (last == 20) stop.Cancel();
            }), stop.Token));
            Same(last, 20);
            last = 0;
            package.ScoreAsync(data.Samples, new Told<ScoreReport>(report => last = report.Total - report.Done)).GetAwaiter().GetResult();
            Same(last, 0);
        }
    }

    /// <summary>2,000 steps take no more memory than 400 (a tenth more is left to the garbage collector).</summary>
    private void Flat()
    {
        var resident = new Dictionary<long, long>();
        var options = Options(1000, step =>
        {
            if (step.Step == 400 || step.Step == 2000) resident[step.Step] = long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[1]);
            if (step.Step == 2000) Ended.Cancel();
        });
        using (var training = Begin()) Throws<OperationCanceledException>(() => training.FitAsync(data, options, Ended.Token));
        Same(resident.Count, 2);
        if (resident[2000] > 1.1 * resident[400]) throw new InvalidOperationException($"{resident[400]} pages at step 400, {resident[2000]} at 2,000");
    }

    private static readonly CancellationTokenSource Ended = new CancellationTokenSource();

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
