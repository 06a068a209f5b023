using System.Collections.Generic;

namespace Adabet.Device
{
    /// <summary>A tensor: its name, type and shape, in which -1 is the number of samples.</summary>
    public class Port
    {
        internal Port() { }
        /// <summary>Name of the graphs' input or output.</summary>
        public string Name { get; internal set; }
        /// <summary>Data type, such as float32.</summary>
        public string Dtype { get; internal set; }
        /// <summary>Positive numbers; -1, the number of samples, only at the front.</summary>
        public IReadOnlyList<long> Shape { get; internal set; }
        internal DType Type => DType.Of(Dtype);
        internal int RowBytes => (int)(DType.Product(Shape) * Type.Bytes);
    }

    /// <summary>An output of the model. Its shape is informational; the results have their own.</summary>
    public sealed class OutputPort
    {
        internal OutputPort() { }
        /// <summary>Name of the output.</summary>
        public string Name { get; internal set; }
        /// <summary>Data type, such as float32.</summary>
        public string Dtype { get; internal set; }
        /// <summary>Extents: numbers, N, or a multiple of N.</summary>
        public IReadOnlyList<string> Shape { get; internal set; }
        /// <summary>logits, probabilities, or null.</summary>
        public string Role { get; internal set; }
    }

    /// <summary>The labels.</summary>
    public sealed class LabelsPort : Port
    {
        internal LabelsPort() { }
        /// <summary>Number of classes, or null if the loss has none.</summary>
        public int? Classes { get; internal set; }
        /// <summary>A label that is ignored, or null.</summary>
        public long? Ignore { get; internal set; }
    }

    /// <summary>Conversion of raw numbers to an input: (x * Scale - Mean) / Std per channel.</summary>
    public sealed class Preprocessing
    {
        internal Preprocessing() { }
        /// <summary>A factor.</summary>
        public double Scale { get; internal set; }
        /// <summary>One number, or one for each channel.</summary>
        public IReadOnlyList<double> Mean { get; internal set; }
        /// <summary>One number, or one for each channel; none is 0.</summary>
        public IReadOnlyList<double> Std { get; internal set; }
        /// <summary>The channel axis of the input, or null.</summary>
        public int? ChannelAxis { get; internal set; }
        /// <summary>Colours are fed as blue, green, red.</summary>
        public bool Bgr { get; internal set; }
    }

    /// <summary>The training options that the package suggests.</summary>
    public sealed class TrainingDefaults
    {
        internal TrainingDefaults() { }
        /// <summary>Above 0.</summary>
        public double LearningRate { get; internal set; }
        /// <summary>Samples per step.</summary>
        public int BatchSize { get; internal set; }
        /// <summary>Number of passes over the samples.</summary>
        public int Epochs { get; internal set; }
        /// <summary>Random seed of the order of samples.</summary>
        public uint Seed { get; internal set; }
    }

    /// <summary>A layer that is scored.</summary>
    public sealed class ScoredLayer
    {
        internal ScoredLayer() { }
        /// <summary>Name of the layer.</summary>
        public string Name { get; internal set; }
        internal string Output { get; set; }
        internal int Numbers { get; set; }
        internal long Size { get; set; }
    }

    /// <summary>How layers are scored.</summary>
    public sealed class ScoringPlan
    {
        internal ScoringPlan() { }
        internal string File { get; set; }
        /// <summary>Maximum number of samples used.</summary>
        public int Samples { get; internal set; }
        internal int Points { get; set; }
        internal int Subsets { get; set; }
        internal uint Seed { get; set; }
        /// <summary>The layers.</summary>
        public IReadOnlyList<ScoredLayer> Layers { get; internal set; }
    }

    /// <summary>The inputs of training steps.</summary>
    public sealed class Boundary : Port
    {
        internal Boundary() { }
        /// <summary>The model's input it equals, or null if the frozen graph computes it.</summary>
        public string Input { get; internal set; }
    }

    /// <summary>Why a tensor changes in training.</summary>
    public enum TensorKind
    {
        /// <summary>It is trained.</summary>
        Parameter,
        /// <summary>A statistic that the forward pass updates.</summary>
        Statistic,
        /// <summary>It belongs to the optimizer.</summary>
        Optimizer
    }

    /// <summary>A tensor that changes in training.</summary>
    public sealed class TensorRecord
    {
        internal TensorRecord() { }
        /// <summary>Name of the model's tensor.</summary>
        public string Name { get; internal set; }
        /// <summary>Why it changes.</summary>
        public TensorKind Kind { get; internal set; }
        /// <summary>Positive numbers.</summary>
        public IReadOnlyList<long> Shape { get; internal set; }
        internal string Input { get; set; }
        internal string Output { get; set; }
        internal int Offset { get; set; }
        internal int Bytes { get; set; }
    }

    /// <summary>Bytes that training needs up to a batch size.</summary>
    public struct MemoryPair
    {
        internal MemoryPair(long batch, long bytes)
        {
            Batch = batch;
            Bytes = bytes;
        }

        /// <summary>Samples per step.</summary>
        public long Batch { get; }
        /// <summary>Bytes needed.</summary>
        public long Bytes { get; }
    }

    /// <summary>A choice of layers to train.</summary>
    public sealed class Entry
    {
        internal Entry() { }
        /// <summary>Unique in the package.</summary>
        public string Name { get; internal set; }
        /// <summary>The layers that are trained.</summary>
        public IReadOnlyList<string> Layers { get; internal set; }
        /// <summary>Number of trained values.</summary>
        public long Trained { get; internal set; }
        /// <summary>The file of the personal model, or null in a package of .ort files.</summary>
        public string Model { get; internal set; }
        /// <summary>The file that the personal model reads the trained tensors from.</summary>
        public string Selected { get; internal set; }
        /// <summary>The size of that file.</summary>
        public int SelectedBytes { get; internal set; }
        /// <summary>The inputs of training steps.</summary>
        public IReadOnlyList<Boundary> Boundary { get; internal set; }
        /// <summary>The tensors that change in training.</summary>
        public IReadOnlyList<TensorRecord> Tensors { get; internal set; }
        /// <summary>Bytes that training needs, by ascending batch size.</summary>
        public IReadOnlyList<MemoryPair> Memory { get; internal set; }

        internal string Frozen { get; set; }
        internal string Step { get; set; }
        internal string Evaluation { get; set; }
        internal string Prediction { get; set; }
        internal string State { get; set; }
        internal string LabelsName { get; set; }
        internal string RateName { get; set; }
        internal string StepName { get; set; }
        internal string LossName { get; set; }
        internal Port Logits { get; set; }
        internal int? ClassAxis { get; set; }
        /// <summary>Bytes of all tensors at their offsets.</summary>
        internal int StateBytes { get; set; }
        /// <summary>Number of tensors in a delta: parameters and statistics.</summary>
        internal int KeptCount { get; set; }

        /// <summary>Bytes that training needs at a batch size; long.MaxValue on overflow.</summary>
        public long NeededBytes(int batchSize)
        {
            return Choosing.NeededBytes(Memory, batchSize);
        }
    }

    /// <summary>The checked content of device.json.</summary>
    public sealed class Description
    {
        internal Description() { }
        /// <summary>Name.</summary>
        public string Model { get; internal set; }
        /// <summary>SHA-256 of the model file that the package was made from.</summary>
        public string ModelSha256 { get; internal set; }
        /// <summary>The oldest supported version, such as 1.17.</summary>
        public string OldestOnnxRuntime { get; internal set; }
        /// <summary>The model's inputs.</summary>
        public IReadOnlyList<Port> Inputs { get; internal set; }
        /// <summary>The model's outputs.</summary>
        public IReadOnlyList<OutputPort> Outputs { get; internal set; }
        /// <summary>The labels.</summary>
        public LabelsPort Labels { get; internal set; }
        /// <summary>Names of the classes, or null.</summary>
        public IReadOnlyList<string> ClassNames { get; internal set; }
        /// <summary>Conversion of raw numbers to an input, or null.</summary>
        public Preprocessing Preprocessing { get; internal set; }
        /// <summary>Suggested training options.</summary>
        public TrainingDefaults Training { get; internal set; }
        /// <summary>How layers are scored, or null.</summary>
        public ScoringPlan Scoring { get; internal set; }
        /// <summary>The choices of layers.</summary>
        public IReadOnlyList<Entry> Entries { get; internal set; }

        internal IReadOnlyList<FileRecord> Files { get; set; }
        internal string Weights { get; set; }
        internal int? ForwardBatch { get; set; }
    }

    /// <summary>A file of a package.</summary>
    internal sealed class FileRecord
    {
        public string Name, Sha256;
        public long Bytes;
        /// <summary>Whether it is rewritten for a personal model, so that its SHA-256 is not checked.</summary>
        public bool Rewritten;
    }
}
