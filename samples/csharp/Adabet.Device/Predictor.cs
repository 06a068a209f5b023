using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>An output of the model for all samples.</summary>
    public sealed class Output
    {
        internal Output(string name, string dtype, long[] shape, byte[] bytes)
        {
            Name = name;
            Dtype = dtype;
            Shape = shape;
            Bytes = bytes;
        }

        /// <summary>Name of the output.</summary>
        public string Name { get; }
        /// <summary>Data type, such as float32.</summary>
        public string Dtype { get; }
        /// <summary>Shape; the number of samples comes first.</summary>
        public IReadOnlyList<long> Shape { get; }
        /// <summary>Its numbers, little-endian.</summary>
        public byte[] Bytes { get; }

        /// <summary>Its numbers, if they are float32.</summary>
        public float[] ToFloats()
        {
            if (Dtype != "float32") throw new DeviceException(DeviceError.WrongShape, $"The output {Json.Shown(Name)} is {Dtype}, not float32.");
            var numbers = new float[Bytes.Length / 4];
            Buffer.BlockCopy(Bytes, 0, numbers, 0, Bytes.Length);
            return numbers;
        }
    }

    /// <summary>Runs the prediction graph of an entry.</summary>
    internal sealed class Predictor : IDisposable
    {
        private readonly Description about;
        private readonly Entry entry;
        private readonly Graph graph;

        public Predictor(Runtime runtime, Description about, Entry entry)
        {
            this.about = about;
            this.entry = entry;
            var inputs = about.Inputs.Concat(entry.Tensors.Take(entry.KeptCount).Select(tensor => State.Port(tensor, false))).ToList();
            var outputs = about.Outputs.Select(port => new Port { Name = port.Name, Dtype = DType.Of(port.Dtype)?.Name }).ToList();
            graph = runtime.Open(entry.Prediction, inputs, outputs);
        }

        public IReadOnlyList<Output> Run(byte[] state, DataSet data, int batchSize, RunStop stop)
        {
            if (data.Count == 0) throw new DeviceException(DeviceError.TooFewSamples, "There are no samples to predict. Give at least one.");
            int most = Math.Min(about.ForwardBatch ?? batchSize, data.Count);
            int[] order = DocumentedRandom.Counted(data.Count);
            var parts = about.Outputs.Select(_ => new List<Output>()).ToList();
            using (var values = new StateTensors(entry, state, entry.KeptCount))
            using (var bag = new Bag())
            {
                var feeds = about.Inputs.Select(port => bag.Add(new Feed(port, most))).ToArray();
                for (int first = 0; first < data.Count; first += most)
                {
                    stop.Token.ThrowIfCancellationRequested();
                    int count = Math.Min(most, data.Count - first);
                    for (int i = 0; i < feeds.Length; i++) data.Inputs[i].Fill(feeds[i], order, first, count);
                    using (var found = graph.Run(feeds.Select(feed => feed.Tensor(count)).Concat(values.Values).ToArray(), stop))
                        for (int i = 0; i < parts.Count; i++) parts[i].Add(Copied(about.Outputs[i], found.ElementAt(i)));
                }
            }
            return parts.Select(Joined).ToList();
        }

        private static Output Copied(OutputPort port, OrtValue value)
        {
            var info = value.GetTensorTypeAndShape();
            var type = DType.Of(info.ElementDataType)
                ?? throw new DeviceException(DeviceError.Runtime, $"The output {Json.Shown(port.Name)} has a type that is not supported.");
            return new Output(port.Name, type.Name, info.Shape, value.GetTensorMutableRawData().ToArray());
        }

        /// <summary>Concatenate the outputs of batches.</summary>
        private static Output Joined(List<Output> parts)
        {
            Output first = parts[0];
            if (parts.Count == 1) return first;
            if (first.Shape.Count == 0 || parts.Any(part => !part.Shape.Skip(1).SequenceEqual(first.Shape.Skip(1))))
                throw new DeviceException(DeviceError.WrongShape,
                    $"The output {Json.Shown(first.Name)} does not have the samples as its first axis: predict one batch at a time.");
            byte[] bytes = Block.Room(parts.Sum(part => (long)part.Bytes.Length), "predictions");
            int at = 0;
            foreach (var part in parts)
            {
                Buffer.BlockCopy(part.Bytes, 0, bytes, at, part.Bytes.Length);
                at += part.Bytes.Length;
            }
            long[] shape = first.Shape.ToArray();
            shape[0] = parts.Sum(part => part.Shape[0]);
            return new Output(first.Name, first.Dtype, shape, bytes);
        }

        public void Dispose()
        {
            graph.Dispose();
        }
    }
}
