using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>Computes loss and accuracy on held-out samples.</summary>
    internal sealed class Evaluator : IDisposable
    {
        private readonly Entry entry;
        private readonly DataSet data;
        private readonly Bag bag = new Bag();
        private readonly Graph graph;
        private readonly Batch batch;
        private readonly Feed logits;
        private readonly Block loss;
        private readonly OrtValue lossValue;
        private readonly int[] order;

        public Evaluator(Runtime runtime, Description about, Entry entry, DataSet data, int batchSize, bool keep, RunStop stop)
        {
            this.entry = entry;
            this.data = data;
            order = DocumentedRandom.Counted(data.Count);
            try
            {
                var features = bag.Add(new Features(runtime, about, entry, data, batchSize, keep, stop));
                batch = bag.Add(new Batch(entry, data, features, batchSize));
                graph = bag.Add(runtime.Open(entry.Evaluation, Inputs(about, entry, entry.KeptCount), Outputs(entry)));
                logits = bag.Add(new Feed(entry.Logits, batch.Size));
                loss = bag.Add(new Block(4, "a loss"));
                lossValue = bag.Add(loss.Tensor(DType.Float, new long[0]));
            }
            catch
            {
                bag.Dispose();
                throw;
            }
        }

        /// <summary>Inputs of evaluation and step, except learning rate and step number.</summary>
        public static List<Port> Inputs(Description about, Entry entry, int tensors)
        {
            var ports = entry.Boundary.ToList<Port>();
            ports.Add(new Port { Name = entry.LabelsName, Dtype = about.Labels.Dtype, Shape = about.Labels.Shape });
            ports.AddRange(entry.Tensors.Take(tensors).Select(tensor => State.Port(tensor, false)));
            return ports;
        }

        /// <summary>Loss and logits.</summary>
        public static List<Port> Outputs(Entry entry)
        {
            return new List<Port> { new Port { Name = entry.LossName, Dtype = "float32", Shape = new long[0] }, entry.Logits };
        }

        /// <param name="state">parameters and statistics</param>
        public Evaluation Run(IEnumerable<OrtValue> state, RunStop stop)
        {
            var values = state.Take(entry.KeptCount).ToList();
            double sum = 0;
            long counted = 0, right = 0;
            for (int first = 0; first < data.Count; first += batch.Size)
            {
                stop.Token.ThrowIfCancellationRequested();
                int count = Math.Min(batch.Size, data.Count - first);
                graph.Run(batch.Fill(order, first, count, stop).Concat(values).ToArray(), new[] { lossValue, logits.Tensor(count) }, stop);
                long some = Count(first, count, ref right);
                if (some > 0) sum += loss.Single(0) * (double)some;
                counted += some;
            }
            if (counted == 0) throw new DeviceException(DeviceError.TooFewSamples, "All labels are ignored, so there is nothing to evaluate.");
            return new Evaluation(sum / counted, HasClasses ? (double?)right / counted : null);
        }

        private long LabelsOfSample => DType.Product(data.Labels.Port.Shape);

        private bool HasClasses => entry.ClassAxis != null && data.Labels.Data is long[]
            && DType.Product(entry.Logits.Shape) / entry.Logits.Shape[entry.ClassAxis.Value] == LabelsOfSample;

        /// <summary>Counts the labels of a batch that are not ignored, and the correct predictions.</summary>
        private long Count(int first, int samples, ref long right)
        {
            long begin = first * LabelsOfSample, counted = 0;
            for (long i = 0; i < samples * LabelsOfSample; i++)
            {
                if (!data.Counts(begin + i)) continue;
                counted++;
                if (HasClasses && Largest(i) == ((long[])data.Labels.Data)[begin + i]) right++;
            }
            return counted;
        }

        /// <summary>The class with the largest logit.</summary>
        private int Largest(long label)
        {
            int axis = entry.ClassAxis.Value, best = 0;
            long classes = entry.Logits.Shape[axis], inner = DType.Product(entry.Logits.Shape.Skip(axis + 1));
            long row = label / inner * inner * classes + label % inner;
            float highest = logits.Block.Single((int)row * 4);
            for (int c = 1; c < classes; c++)
            {
                float logit = logits.Block.Single((int)(row + c * inner) * 4);
                if (!(logit > highest)) continue;
                highest = logit;
                best = c;
            }
            return best;
        }

        public void Dispose()
        {
            bag.Dispose();
        }
    }
}
