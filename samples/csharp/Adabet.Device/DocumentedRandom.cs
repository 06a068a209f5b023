using System;

namespace Adabet.Device
{
    /// <summary>The generator of the format: the same numbers in every language.</summary>
    internal sealed class DocumentedRandom
    {
        private uint state;

        public DocumentedRandom(uint seed, long stream)
        {
            unchecked { state = seed + (uint)stream * 0x6C078965u; }
        }

        public uint Next()
        {
            unchecked
            {
                state += 0x9E3779B9u;
                uint z = state;
                z = (z ^ (z >> 16)) * 0x85EBCA6Bu;
                z = (z ^ (z >> 13)) * 0xC2B2AE35u;
                return z ^ (z >> 16);
            }
        }

        /// <summary>A number below n.</summary>
        public int Below(int n)
        {
            return (int)(((ulong)Next() * (ulong)n) >> 32);
        }

        /// <summary>m of n numbers, ascending.</summary>
        public int[] Subset(int n, int m)
        {
            int[] all = Counted(n), found = new int[m];
            for (int i = 0; i < m; i++) Swap(all, i, i + Below(n - i));
            Array.Copy(all, found, m);
            Array.Sort(found);
            return found;
        }

        /// <summary>The order of n samples in an epoch; the epoch is the generator's stream.</summary>
        public static int[] Shuffle(int n, uint seed, long stream)
        {
            var random = new DocumentedRandom(seed, stream);
            int[] all = Counted(n);
            for (int i = n - 1; i >= 1; i--) Swap(all, i, random.Below(i + 1));
            return all;
        }

        /// <summary>0 to n - 1.</summary>
        public static int[] Counted(int n)
        {
            var all = new int[n];
            for (int i = 0; i < n; i++) all[i] = i;
            return all;
        }

        private static void Swap(int[] numbers, int i, int j)
        {
            int kept = numbers[i];
            numbers[i] = numbers[j];
            numbers[j] = kept;
        }
    }
}
