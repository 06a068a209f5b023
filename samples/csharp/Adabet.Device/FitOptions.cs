using System;
using System.Threading;

namespace Adabet.Device
{
    /// <summary>How an entry is trained. What is null is as the package says, or as training was begun before.</summary>
    public sealed class FitOptions
    {
        /// <summary>Complete epochs when it is done, those before it went on counted.</summary>
        public int? Epochs { get; set; }
        /// <summary>Samples of a step.</summary>
        public int? BatchSize { get; set; }
        /// <summary>Above 0.</summary>
        public double? LearningRate { get; set; }
        /// <summary>Of the order of samples.</summary>
        public uint? Seed { get; set; }
        /// <summary>
        /// A file that is written after each epoch, and gone on from where it exists. The same samples in the same order
        /// then give the same bits as without the interruption.
        /// </summary>
        public string ProgressFile { get; set; }
        /// <summary>Evaluated after each epoch.</summary>
        public Labelled HeldOut { get; set; }
        /// <summary>Compute the frozen part once for each sample and keep it, or again for each batch, to save memory.</summary>
        public bool KeepFeatures { get; set; } = true;
        /// <summary>Pauses training between steps.</summary>
        public TrainingPause Pause { get; set; }
        /// <summary>Told after each step.</summary>
        public IProgress<StepReport> StepDone { get; set; }
        /// <summary>Told after each epoch, when progress is stored.</summary>
        public IProgress<EpochReport> EpochDone { get; set; }
    }

    /// <summary>Pauses training between steps, as long as it is asked to.</summary>
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

        /// <summary>When no training uses it any more.</summary>
        public void Dispose()
        {
            going.Dispose();
        }
    }

    /// <summary>After a step.</summary>
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

        /// <summary>From 1.</summary>
        public long Epoch { get; }
        /// <summary>When it is done.</summary>
        public long Epochs { get; }
        /// <summary>From 1, over all epochs.</summary>
        public long Step { get; }
        /// <summary>Steps of one epoch.</summary>
        public int StepsPerEpoch { get; }
        /// <summary>Of this batch.</summary>
        public float Loss { get; }
    }

    /// <summary>After an epoch.</summary>
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
        /// <summary>Mean of the steps' losses, each as often as it had samples.</summary>
        public double Loss { get; }
        /// <summary>Of what was held out, or null.</summary>
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
        /// <summary>Share of the labels that count that have the largest logit; null where the loss has no classes.</summary>
        public double? Accuracy { get; }
    }
}
