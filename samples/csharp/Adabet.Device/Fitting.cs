using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary> Steps in the documented order, with two sets of values that alternate as input and output. A step
    /// allocates nothing except what the runtime's call needs.
    /// </summary>
    internal sealed class Fitting : IDisposable
    {
        private readonly Entry entry;
        private readonly FitOptions options;
        private readonly DataSet data;
        private readonly RunStop stop;
        private readonly float rate;
        private readonly Bag bag = new Bag();
        private readonly Batch batch;
        private readonly Graph graph;
        private readonly Evaluator heldOut;
        private readonly StateTensors[] sets = new StateTensors[2];
        private readonly Feed logits;
        private readonly Block loss, number;
        private readonly OrtValue lossValue, rateValue, numberValue;
        private int now; // the set that holds the current values

        public Fitting(Runtime runtime, Description about, Entry entry, byte[] state, Labelled samples, Place begin, FitOptions options, RunStop stop)
        {
            this.entry = entry;
            this.options = options;
            this.stop = stop;
            Place = begin;
            rate = (float)(options.LearningRate ?? about.Training.LearningRate);
            try
            {
                data = new DataSet(about, samples);
                if (options.HeldOut != null)
                    heldOut = bag.Add(new Evaluator(runtime, about, entry, new DataSet(about, options.HeldOut), begin.BatchSize, options.KeepFeatures, stop));
                var features = bag.Add(new Features(runtime, about, entry, data, begin.BatchSize, options.KeepFeatures, stop));
                batch = bag.Add(new Batch(entry, data, features, begin.BatchSize));
                for (int i = 0; i < 2; i++)
                {
                    byte[] set = Block.Room(entry.StateBytes, "the trained values");
                    Buffer.BlockCopy(state, 0, set, 0, set.Length); // including the gaps between tensors
                    sets[i] = bag.Add(new StateTensors(entry, set, entry.Tensors.Count));
                }
                logits = bag.Add(new Feed(entry.Logits, batch.Size));
                loss = bag.Add(new Block(4, "a loss"));
                lossValue = bag.Add(loss.Tensor(DType.Float, new long[0]));
                rateValue = bag.Add(bag.Add(new Block(BitConverter.GetBytes(rate))).Tensor(DType.Float, new long[0]));
                number = bag.Add(new Block(8, "a number"));
                numberValue = bag.Add(number.Tensor(DType.Int64, new long[0]));
                graph = bag.Add(Open(runtime, about));
            }
            catch
            {
                bag.Dispose();
                throw;
            }
        }

        /// <summary>The position in training, after complete epochs.</summary>
        public Place Place { get; private set; }

        public int StepsPerEpoch => (data.Count - 1) / Place.BatchSize + 1;

        private Graph Open(Runtime runtime, Description about)
        {
            List<Port> inputs = Evaluator.Inputs(about, entry, entry.Tensors.Count), outputs = Evaluator.Outputs(entry);
            inputs.Add(new Port { Name = entry.RateName, Dtype = "float32", Shape = new long[0] });
            inputs.Add(new Port { Name = entry.StepName, Dtype = "int64", Shape = new long[0] });
            outputs.AddRange(entry.Tensors.Select(tensor => State.Port(tensor, true)));
            return runtime.Open(entry.Step, inputs, outputs);
        }

        /// <summary>The next epoch.</summary>
        /// <param name="kept">called with the state after the epoch, to be copied, and its position, before progress is
        /// reported</param>
        public EpochReport Epoch(Action<byte[], Place> kept)
        {
            long epoch = Place.Epoch + 1, step = Place.Step;
            int[] order = DocumentedRandom.Shuffle(data.Count, Place.Seed, epoch);
            double sum = 0;
            for (int first = 0; first < data.Count; first += batch.Size)
            {
                options.Pause?.Wait(stop.Token);
                stop.Token.ThrowIfCancellationRequested();
                int count = Math.Min(batch.Size, data.Count - first);
                float found = Step(order, first, count, ++step);
                sum += (double)found * count;
                options.StepDone?.Report(new StepReport(epoch, options.Epochs.Value, step, StepsPerEpoch, found));
            }
            stop.Token.ThrowIfCancellationRequested();
            byte[] state = sets[now].Block.Bytes;
            State.CheckFinite(entry, state, entry.Tensors.Count, DeviceError.LossNotFinite,
                $"The values were reset to those of epoch {Place.Epoch}. Use a learning rate below {rate}.");
            Place = new Place(epoch, step, Place.Seed, Place.BatchSize);
            kept(state, Place);
            return new EpochReport(epoch, step, sum / data.Count, heldOut?.Run(sets[now].Values, stop));
        }

        private float Step(int[] order, int first, int count, long step)
        {
            Buffer.BlockCopy(BitConverter.GetBytes(step), 0, number.Bytes, 0, 8);
            var inputs = batch.Fill(order, first, count, stop).Concat(sets[now].Values).Concat(new[] { rateValue, numberValue });
            var outputs = new[] { lossValue, logits.Tensor(count) }.Concat(sets[1 - now].Values);
            graph.Run(inputs.ToArray(), outputs.ToArray(), stop);
            now = 1 - now;
            float found = loss.Single(0);
            if (!float.IsNaN(found) && !float.IsInfinity(found)) return found;
            throw new DeviceException(DeviceError.LossNotFinite, $"The loss of step {step} is {found}: the values were reset to those of epoch "
                + $"{Place.Epoch}. Use a learning rate below {rate}, or check the samples.");
        }

        public void Dispose()
        {
            bag.Dispose();
        }
    }
}
