using System;
using System.Threading;

namespace Adabet.Device
{
    /// <summary>How an entry is trained. Null means the package's value, or that of the training to resume.</summary>
    public sealed class FitOptions
    {
        /// <summary>Total number of epochs, including those before it was resumed.</summary>
        public int? Epochs { get; set; }
        /// <summary>Samples per step.</summary>
        public int? BatchSize { get; set; }
        /// <summary>Above 0.</summary>
        public double? LearningRate { get; set; }
        /// <summary>Random seed of the order of samples.</summary>
        public uint? Seed { get; set; }
        /// <summary>
        /// A file written after each epoch, from which training resumes if it exists. With the same
        /// samples in the same order, results are bit-identical to those without the interruption.
        /// </summary>
        public string ProgressFile { get; set; }
        /// <summary>Evaluated after each epoch.</summary>
        public Labelled HeldOut { get; set; }
        /// <summary>Compute the frozen part once for each sample and keep it, or again for each batch, to save memory.</summary>
        public bool KeepFeatures { get; set; } = true;
        /// <summary>Pauses training between steps.</summary>
        public TrainingPause Pause { get; set; }
        /// <summary>Called after each step.</summary>
        public IProgress<StepReport> StepDone { get; set; }
        /// <summary>Called after each epoch, when progress is stored.</summary>
        public IProgress<EpochReport> EpochDone { get; set; }
    }

    /// <summary>Pauses training between steps until it is resumed.</summary>
    public sealed class TrainingPause : IDisposable
    {
        private readonly ManualResetEventSlim going = new ManualResetEventSlim(true);

        /// <summary>Stop before the next step.</summary>
        public void Pause()
        {
            going.Reset();
        }

        /// <summary>Resume.</summary>
        public void Continue()
        {
            going.Set();
        }

        internal void Wait(CancellationToken token)
        {
            going.Wait(token);
        }

        /// <summary>Call it when no training uses it any more.</summary>
        public void Dispose()
        {
            going.Dispose();
        }
    }

    /// <summary>Progress after a step.</summary>
    public struct StepReport
    {
        internal StepReport(long epoch, long epochs, long step, int stepsPerEpoch, float loss)
        {
            Epoch = epoch;
            Epochs = epochs;
            Step = step;
            StepsPerEpoch = stepsPerEpoch;
            Loss = loss;
        }

        /// <summary>Counted from 1.</summary>
        public long Epoch { get; }
        /// <summary>Total number of epochs.</summary>
        public long Epochs { get; }
        /// <summary>Counted from 1, over all epochs.</summary>
        public long Step { get; }
        /// <summary>Steps of one epoch.</summary>
        public int StepsPerEpoch { get; }
        /// <summary>Loss of this batch.</summary>
        public float Loss { get; }
    }

    /// <summary>Progress after an epoch.</summary>
    public sealed class EpochReport
    {
        internal EpochReport(long epoch, long step, double loss, Evaluation heldOut)
        {
            Epoch = epoch;
            Step = step;
            Loss = loss;
            HeldOut = heldOut;
        }

        /// <summary>Complete epochs so far.</summary>
        public long Epoch { get; }
        /// <summary>Steps so far.</summary>
        public long Step { get; }
        /// <summary>Mean loss, weighted by the samples of each step.</summary>
        public double Loss { get; }
        /// <summary>Evaluation of the held-out samples, or null.</summary>
        public Evaluation HeldOut { get; }
    }

    /// <summary>Loss and accuracy.</summary>
    public sealed class Evaluation
    {
        internal Evaluation(double loss, double? accuracy)
        {
            Loss = loss;
            Accuracy = accuracy;
        }

        /// <summary>Mean over the labels that count.</summary>
        public double Loss { get; }
        /// <summary>Share of correct predictions among the labels that count; null if the loss has no
        /// classes.</summary>
        public double? Accuracy { get; }
    }
}
