using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>Progress of scoring: first forward passes, then layers.</summary>
    public struct ScoreReport
    {
        internal ScoreReport(int done, int total)
        {
            Done = done;
            Total = total;
        }

        /// <summary>Completed, out of Total.</summary>
        public int Done { get; }
        /// <summary>Samples and layers.</summary>
        public int Total { get; }
    }

    /// <summary>The score of a layer: the number of loops that samples form in it, relative to its size.</summary>
    public sealed class LayerScore
    {
        internal LayerScore(string name, double score)
        {
            Name = name;
            Score = score;
        }

        /// <summary>Name of the layer.</summary>
        public string Name { get; }
        /// <summary>The higher the score, the more training it is worth.</summary>
        public double Score { get; }
    }

    /// <summary>Scores layers by forward passes of single samples, without labels.</summary>
    internal sealed class Scoring
    {
        public const int Fewest = 8;

        private readonly ScoringPlan plan;
        private readonly Description about;
        private readonly Runtime runtime;
        private readonly DataSet data;
        private readonly int samples;

        public Scoring(Runtime runtime, Description about, DataSet data)
        {
            plan = about.Scoring ?? throw new DeviceException(DeviceError.WrongOption,
                "The package has no graph for scoring. Create it with scoring.");
            this.runtime = runtime;
            this.about = about;
            this.data = data;
            samples = Math.Min(plan.Samples, data.Count);
            if (samples < Fewest)
                throw new DeviceException(DeviceError.TooFewSamples, $"There are {samples} samples, but scoring needs at least {Fewest}.");
        }

        public IReadOnlyList<LayerScore> Run(IProgress<ScoreReport> progress, CancellationToken token)
        {
            int total = samples + plan.Layers.Count, done = 0;
            var numbers = plan.Layers.Select(layer => Room(layer)).ToList();
            var outputs = plan.Layers.Select(layer => layer.Output).Distinct().ToList();
            using (var stop = new RunStop(token))
            using (var graph = runtime.Open(plan.File, about.Inputs, outputs.Select(name => new Port { Name = name, Dtype = "float32" }).ToList(), true))
            using (var bag = new Bag())
            {
                var feeds = about.Inputs.Select(port => bag.Add(new Feed(port, 1))).ToArray();
                for (int sample = 0; sample < samples; sample++)
                {
                    token.ThrowIfCancellationRequested();
                    for (int i = 0; i < feeds.Length; i++) data.Inputs[i].Fill(feeds[i], new[] { sample }, 0, 1);
                    using (var found = graph.Run(feeds.Select(feed => feed.Tensor(1)).ToArray(), stop))
                        for (int i = 0; i < numbers.Count; i++)
                            Keep(found.ElementAt(outputs.IndexOf(plan.Layers[i].Output)), plan.Layers[i], sample, numbers[i]);
                    progress?.Report(new ScoreReport(++done, total));
                }
            }
            return Count(numbers, () => progress?.Report(new ScoreReport(++done, total)), token);
        }

        private float[] Room(ScoredLayer layer)
        {
            try
            {
                return new float[checked(samples * layer.Numbers)];
            }
            catch (Exception error) when (error is OutOfMemoryException || error is OverflowException)
            {
                throw new DeviceException(DeviceError.OutOfMemory,
                    $"There is not enough memory for {layer.Numbers} numbers of the layer {Json.Shown(layer.Name)} for each of {samples} samples.", error);
            }
        }

        private void Keep(OrtValue value, ScoredLayer layer, int sample, float[] to)
        {
            long count = DType.Product(value.GetTensorTypeAndShape().Shape);
            if (count != layer.Numbers)
                throw new DeviceException(DeviceError.WrongFile, $"{plan.File} returns {count} numbers for the layer {Json.Shown(layer.Name)}, "
                    + $"expected {layer.Numbers}. Copy the package again.");
            var numbers = value.GetTensorDataAsSpan<float>();
            for (int i = 0; i < layer.Numbers; i++)
            {
                if (float.IsNaN(numbers[i]) || float.IsInfinity(numbers[i]))
                    throw new DeviceException(DeviceError.NotFinite,
                        $"Sample {sample} makes the layer {Json.Shown(layer.Name)} NaN or infinite. Check the sample, or leave it out.");
                to[sample * layer.Numbers + i] = numbers[i];
            }
        }

        private IReadOnlyList<LayerScore> Count(List<float[]> numbers, Action told, CancellationToken token)
        {
            int points = Math.Min(plan.Points, samples);
            var random = new DocumentedRandom(plan.Seed, 0);
            var subsets = new List<int[]>();
            for (int i = 0; i < (points == samples ? 1 : plan.Subsets); i++) subsets.Add(random.Subset(samples, points));
            var found = new List<LayerScore>();
            for (int i = 0; i < numbers.Count; i++)
            {
                token.ThrowIfCancellationRequested();
                var loops = new Loops(Distances(numbers[i], samples, plan.Layers[i].Numbers), samples).Count(subsets);
                double mean = loops.Sum(one => (double)one) / loops.Length;
                found.Add(new LayerScore(plan.Layers[i].Name, mean / ((double)points * plan.Layers[i].Size)));
                numbers[i] = null;
                told();
            }
            return found;
        }

        /// <summary>Euclidean distances, computed in double precision and rounded to float32.</summary>
        private static float[] Distances(float[] numbers, int samples, int size)
        {
            var found = new float[samples * samples];
            for (int i = 0; i < samples; i++)
                for (int j = 0; j < i; j++)
                {
                    double sum = 0;
                    for (int k = 0; k < size; k++)
                    {
                        double apart = (double)numbers[i * size + k] - numbers[j * size + k];
                        sum += apart * apart;
                    }
                    found[i * samples + j] = found[j * samples + i] = (float)Math.Sqrt(sum);
                }
            return found;
        }
    }
}
