using System;
using System.Collections.Generic;
using System.Linq;

namespace Adabet.Device
{
    /// <summary> Samples one after another: an array for each input of the model, with any number of dimensions.
    /// float16 is an array of ushort; an array of byte is interpreted as raw little-endian numbers of any type.
    /// </summary>
    public sealed class Samples
    {
        private readonly Array alone;
        private readonly IReadOnlyDictionary<string, Array> byInput;

        /// <summary>For a model with one input.</summary>
        public Samples(Array numbers)
        {
            alone = numbers ?? throw new ArgumentNullException(nameof(numbers));
        }

        /// <summary>By input name.</summary>
        public Samples(IReadOnlyDictionary<string, Array> byInput)
        {
            this.byInput = byInput ?? throw new ArgumentNullException(nameof(byInput));
        }

        /// <summary>For a model with one input.</summary>
        public static implicit operator Samples(float[] numbers)
        {
            return new Samples(numbers);
        }

        internal Array Of(Port port, int inputs)
        {
            if (alone != null && inputs > 1)
                throw new DeviceException(DeviceError.WrongShape, $"The model has {inputs} inputs: give an array for each by name.");
            Array found = alone;
            if (alone == null && (!byInput.TryGetValue(port.Name, out found) || found == null))
                throw new DeviceException(DeviceError.WrongShape, $"The input {Json.Shown(port.Name)} is missing among the samples.");
            return found;
        }
    }

    /// <summary>Samples with labels: long[] or int[] where labels are classes, else float[]; or their raw
    /// bytes.</summary>
    public sealed class Labelled
    {
        /// <summary>Samples and their labels, in the same order.</summary>
        public Labelled(Samples samples, Array labels)
        {
            Samples = samples ?? throw new ArgumentNullException(nameof(samples));
            Labels = labels ?? throw new ArgumentNullException(nameof(labels));
        }

        /// <summary>The samples.</summary>
        public Samples Samples { get; }
        /// <summary>Their labels.</summary>
        public Array Labels { get; }
    }

    /// <summary>An array with one row for each sample.</summary>
    internal sealed class Column
    {
        public readonly Port Port;
        public readonly Array Data;

        public Column(Port port, Array data)
        {
            Port = port;
            Data = data;
        }

        /// <summary>Copy some rows into a batch.</summary>
        public void Fill(Feed feed, int[] order, int first, int count)
        {
            int size = Port.RowBytes;
            for (int i = 0; i < count; i++) Buffer.BlockCopy(Data, order[first + i] * size, feed.Block.Bytes, i * size, size);
        }
    }

    /// <summary>Checked samples and labels, in the types of the graphs.</summary>
    internal sealed class DataSet
    {
        public readonly int Count;
        public readonly IReadOnlyList<Column> Inputs;
        public readonly Column Labels;
        private readonly LabelsPort port;

        public DataSet(Description about, Samples samples)
        {
            Inputs = about.Inputs.Select(input => new Column(input, Checked(input, samples.Of(input, about.Inputs.Count)))).ToList();
            Count = CountOf(Inputs[0]);
            foreach (var column in Inputs)
                if (CountOf(column) != Count)
                    throw new DeviceException(DeviceError.WrongShape, $"The input {Json.Shown(Inputs[0].Port.Name)} has {Count} samples, "
                        + $"{Json.Shown(column.Port.Name)} has {CountOf(column)}.");
            if (Count > Describe.MostSamples)
                throw new DeviceException(DeviceError.WrongOption, $"There are {Count} samples; give at most {Describe.MostSamples}.");
        }

        public DataSet(Description about, Labelled data) : this(about, data.Samples)
        {
            port = about.Labels;
            if (Count == 0) throw new DeviceException(DeviceError.TooFewSamples, "There are no samples. Give at least one.");
            Labels = new Column(port, CheckedLabels(data.Labels));
        }

        private static Array Checked(Port port, Array data)
        {
            string name = Json.Shown(port.Name);
            if (!port.Type.Takes(data))
                throw new DeviceException(DeviceError.WrongShape,
                    $"The input {name} needs {port.Dtype}, found {data.GetType().Name}: convert it first.");
            long bytes = data.LongLength * (data is byte[] ? 1 : port.Type.Bytes);
            if (bytes % port.RowBytes == 0 && bytes <= int.MaxValue) return data;
            throw new DeviceException(DeviceError.WrongShape, $"The input {name} has {bytes} bytes, expected whole samples of "
                + $"{port.RowBytes} bytes, {port.Dtype} {DType.Shown(port.Shape)}, and at most {int.MaxValue} in total.");
        }

        private static int CountOf(Column column)
        {
            return Buffer.ByteLength(column.Data) / column.Port.RowBytes;
        }

        /// <summary>Labels in the type of the graphs, checked for their range.</summary>
        private Array CheckedLabels(Array given)
        {
            long expected = Count * DType.Product(port.Shape);
            bool raw = given is byte[], whole = port.Dtype == "int64";
            if (!raw && !port.Type.Takes(given) && !(whole && given is int[]))
                throw new DeviceException(DeviceError.WrongShape, $"Labels are {port.Dtype}, found {given.GetType().Name}: convert them first.");
            long found = raw ? given.LongLength / port.Type.Bytes : given.LongLength;
            if (found != expected || (raw && given.LongLength % port.Type.Bytes != 0))
                throw new DeviceException(DeviceError.WrongShape,
                    $"There are {found} labels for {Count} samples, expected {expected}, {port.Dtype} {DType.Shown(port.Shape)}.");
            Array labels = whole ? (Array)new long[expected] : new float[expected];
            if (given is int[] small) Array.Copy(small, labels, small.Length);
            else Buffer.BlockCopy(given, 0, labels, 0, Buffer.ByteLength(labels));
            if (labels is long[] classes) CheckClasses(classes);
            else CheckNumbers((float[])labels);
            return labels;
        }

        private void CheckClasses(long[] labels)
        {
            for (int i = 0; i < labels.Length; i++)
            {
                if (port.Classes == null || (labels[i] >= 0 && labels[i] < port.Classes) || labels[i] == port.Ignore) continue;
                string or = port.Ignore == null ? "" : $", or {port.Ignore} for none";
                throw new DeviceException(DeviceError.LabelOutOfRange, $"Label {i} is {labels[i]}, expected 0 to {port.Classes - 1}{or}.");
            }
        }

        private static void CheckNumbers(float[] labels)
        {
            for (int i = 0; i < labels.Length; i++)
                if (float.IsNaN(labels[i]) || float.IsInfinity(labels[i]))
                    throw new DeviceException(DeviceError.NotFinite, $"Label {i} is {labels[i]}, expected a finite number.");
        }

        /// <summary>Whether a label counts.</summary>
        public bool Counts(long at)
        {
            return port.Ignore == null || !(Labels.Data is long[] labels) || labels[at] != port.Ignore;
        }
    }
}
