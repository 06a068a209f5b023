using System;
using System.Collections.Generic;
using System.Linq;

namespace Adabet.Device
{
    /// <summary>The score and the memory of an entry.</summary>
    public sealed class Candidate
    {
        internal Candidate() { }
        /// <summary>Name.</summary>
        public string Entry { get; internal set; }
        /// <summary>The sum of its layers' scores.</summary>
        public double Worth { get; internal set; }
        /// <summary>Bytes needed to train it.</summary>
        public long Bytes { get; internal set; }
    }

    /// <summary>Chooses the entry to train.</summary>
    internal static class Choosing
    {
        public static long NeededBytes(IReadOnlyList<MemoryPair> memory, long batchSize)
        {
            foreach (var pair in memory)
                if (pair.Batch >= batchSize) return pair.Bytes;
            var last = memory[memory.Count - 1];
            decimal needed = ((decimal)last.Bytes * batchSize + last.Batch - 1) / last.Batch;
            return needed >= long.MaxValue ? long.MaxValue : (long)Math.Floor(needed);
        }

        /// <summary>The entry with the highest score among those that fit; ties go to the smaller memory, then to the
        /// first.</summary>
        public static Candidate Choose(IReadOnlyList<Entry> entries, IReadOnlyDictionary<string, double> scores, long? memory, int batchSize)
        {
            if (batchSize < 1) throw new DeviceException(DeviceError.WrongOption, $"The batch size is {batchSize}, expected at least 1.");
            if (memory < 0) throw new DeviceException(DeviceError.WrongOption, $"The memory is {memory}, expected a number of bytes.");
            var all = entries.Select(entry => new Candidate
            {
                Entry = entry.Name,
                Worth = entry.Layers.Aggregate(0.0, (sum, layer) => sum + (scores.TryGetValue(layer, out double score) ? score : 0)),
                Bytes = NeededBytes(entry.Memory, batchSize)
            }).ToList();
            Candidate best = null;
            foreach (var one in all)
            {
                if (one.Bytes > memory) continue;
                if (best == null || one.Worth > best.Worth || (one.Worth == best.Worth && one.Bytes < best.Bytes)) best = one;
            }
            return best ?? throw new DeviceException(DeviceError.OutOfMemory, $"No choice of layers can be trained in {memory} bytes at a batch size of "
                + $"{batchSize}: the smallest needs {all.Min(one => one.Bytes)}. Allow more memory, or use a smaller batch size.");
        }
    }
}
