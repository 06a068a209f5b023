using System.Collections.Generic;

namespace Adabet.Device
{
    /// <summary>A tensor: its name, type and shape, in which -1 is the number of samples.</summary>
    public class Port
    {
        internal Port() { }
        /// <summary>Of the graphs' input or output.</summary>
        public string Name { get; internal set; }
        /// <summary>Such as float32.</summary>
        public string Dtype { get; internal set; }
        /// <summary>Positive numbers; -1, the number of samples, only at the front.</summary>
        public IReadOnlyList<long> Shape { get; internal set; }
        internal DType Type => DType.Of(Dtype);
        internal int RowBytes => (int)(DType.Product(Shape) * Type.Bytes);
    }

    /// <summary>An output of the model. Its shape is informational; what comes out has its own.</summary>
    public sealed class OutputPort
    {
        internal OutputPort() { }
        /// <summary>Of the output.</summary>
        public string Name { get; internal set; }
        /// <summary>Such as float32.</summary>
        public string Dtype { get; internal set; }
        /// <summary>Numbers, N, or so many times N.</summary>
        public IReadOnlyList<string> Shape { get; internal set; }
        /// <summary>logits, probabilities, or null.</summary>
        public string Role { get; internal set; }
    }

    /// <summary>What labels are.</summary>
    public sealed class LabelsPort : Port
    {
        internal LabelsPort() { }
        /// <summary>How many classes, or null where the loss has none.</summary>
        public int? Classes { get; internal set; }
        /// <summary>A label that is not counted, or null.</summary>
        public long? Ignore { get; internal set; }
    }

    /// <summary>How raw numbers become an input: (x * Scale - Mean) / Std per channel.</summary>
    public sealed class Preprocessing
    {
        internal Preprocessing() { }
        /// <summary>A number.</summary>
        public double Scale { get; internal set; }
        /// <summary>One number, or one for each channel.</summary>
        public IReadOnlyList<double> Mean { get; internal set; }
        /// <summary>One number, or one for each channel; none is 0.</summary>
        public IReadOnlyList<double> Std { get; internal set; }
        /// <summary>The axis of the input that channels lie along, or null.</summary>
        public int? ChannelAxis { get; internal set; }
        /// <summary>Colours are fed as blue, green, red.</summary>
        public bool Bgr { get; internal set; }
    }

    /// <summary>What the maker of the package suggests to begin with.</summary>
    public sealed class TrainingDefaults
    {
        internal TrainingDefaults() { }
        /// <summary>Above 0.</summary>
        public double LearningRate { get; internal set; }
        /// <summary>Samples per step.</summary>
        public int BatchSize { get; internal set; }
        /// <summary>How often each sample is seen.</summary>
        public int Epochs { get; internal set; }
        /// <summary>Random seed of the order of samples.</summary>
        public uint Seed { get; internal set; }
    }

    /// <summary>A layer that is scored.</summary>
    public sealed class ScoredLayer
    {
        internal ScoredLayer() { }
        /// <summary>Of the layer.</summary>
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
        /// <summary>How many samples are looked at, at most.</summary>
        public int Samples { get; internal set; }
        internal int Points { get; set; }
        internal int Subsets { get; set; }
        internal uint Seed { get; set; }
        /// <summary>The layers.</summary>
        public IReadOnlyList<ScoredLayer> Layers { get; internal set; }
    }

    /// <summary>What training steps start from.</summary>
    public sealed class Boundary : Port
    {
        internal Boundary() { }
        /// <summary>The model's input that it is, or null for what the frozen graph computes.</summary>
        public string Input { get; internal set; }
    }

    /// <summary>Why a tensor changes in training.</summary>
    public enum TensorKind
    {
        /// <summary>It is trained.</summary>
        Parameter,
        /// <summary>The forward pass moves it.</summary>
        Statistic,
        /// <summary>It belongs to the optimizer.</summary>
        Optimizer
    }

    /// <summary>A tensor that changes in training.</summary>
    public sealed class TensorRecord
    {
        internal TensorRecord() { }
        /// <summary>Of the model's tensor.</summary>
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

    /// <summary>Bytes that training takes up to a batch size.</summary>
    public struct MemoryPair
    {
        internal MemoryPair(long batch, long bytes)
        {
            Batch = batch;
            Bytes = bytes;
        }

        /// <summary>Samples per step.</summary>
        public long Batch { get; }
        /// <summary>What that takes.</summary>
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
        /// <summary>How many numbers that is.</summary>
        public long Trained { get; internal set; }
        /// <summary>The file of the personal model, or null in a package of .ort files.</summary>
        public string Model { get; internal set; }
        /// <summary>The file that the personal model reads the trained tensors from.</summary>
        public string Selected { get; internal set; }
        /// <summary>The size of that file.</summary>
        public int SelectedBytes { get; internal set; }
        /// <summary>What training steps start from.</summary>
        public IReadOnlyList<Boundary> Boundary { get; internal set; }
        /// <summary>What changes in training.</summary>
        public IReadOnlyList<TensorRecord> Tensors { get; internal set; }
        /// <summary>Bytes that training takes, batches ascending.</summary>
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
        /// <summary>Of all tensors, at their offsets.</summary>
        internal int StateBytes { get; set; }
        /// <summary>How many tensors a delta has: parameters and statistics.</summary>
        internal int KeptCount { get; set; }

        /// <summary>Bytes that training takes at a batch size; long.MaxValue where that is more than can be said.</summary>
        public long NeededBytes(int batchSize)
        {
            return Choosing.NeededBytes(Memory, batchSize);
        }
    }

    /// <summary>What device.json says of a package, checked.</summary>
    public sealed class Description
    {
        internal Description() { }
        /// <summary>Its name.</summary>
        public string Model { get; internal set; }
        /// <summary>SHA-256 of the model file that the package was made from.</summary>
        public string ModelSha256 { get; internal set; }
        /// <summary>A version, such as 1.17.</summary>
        public string OldestOnnxRuntime { get; internal set; }
        /// <summary>What the model takes.</summary>
        public IReadOnlyList<Port> Inputs { get; internal set; }
        /// <summary>What the model gives.</summary>
        public IReadOnlyList<OutputPort> Outputs { get; internal set; }
        /// <summary>What labels are.</summary>
        public LabelsPort Labels { get; internal set; }
        /// <summary>Names of the classes, or null.</summary>
        public IReadOnlyList<string> ClassNames { get; internal set; }
        /// <summary>How raw numbers become an input, or null.</summary>
        public Preprocessing Preprocessing { get; internal set; }
        /// <summary>What to begin with.</summary>
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
        /// <summary>It is rewritten for a personal model, so that its SHA-256 says nothing.</summary>
        public bool Rewritten;
    }
}
