using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;

namespace Adabet.Device.Program
{
    /// <summary>The parsed command line: pairs of --NAME VALUE.</summary>
    internal sealed class Options
    {
        private static readonly string[] Known =
        {
            "x", "y", "held-x", "held-y", "raw", "entry", "rate", "batch", "epochs", "seed", "progress", "delta", "selected", "model",
            "stop", "from", "out", "memory", "threads", "keep"
        };

        private readonly List<KeyValuePair<string, string>> given = new List<KeyValuePair<string, string>>();

        public Options(IReadOnlyList<string> words)
        {
            for (int i = 0; i < words.Count; i += 2)
            {
                string name = words[i].StartsWith("--", StringComparison.Ordinal) ? words[i].Substring(2) : "";
                if (!Known.Contains(name)) throw new UsageException($"{words[i]} is not an option.");
                if (i + 1 == words.Count) throw new UsageException($"{words[i]} needs a value.");
                given.Add(new KeyValuePair<string, string>(name, words[i + 1]));
            }
        }

        public IReadOnlyList<string> All(string name)
        {
            return given.Where(pair => pair.Key == name).Select(pair => pair.Value).ToList();
        }

        public string Text(string name)
        {
            return All(name).LastOrDefault();
        }

        public string Needed(string name)
        {
            return Text(name) ?? throw new UsageException($"--{name} is missing.");
        }

        public bool Flag(string name, bool standard)
        {
            string text = Text(name);
            if (text == null) return standard;
            if (text == "yes" || text == "no") return text == "yes";
            throw new UsageException($"--{name} takes yes or no.");
        }

        public long? Long(string name)
        {
            if (Text(name) == null) return null;
            if (long.TryParse(Text(name), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number)) return number;
            throw new UsageException($"--{name} takes a whole number.");
        }

        public int? Int(string name)
        {
            long? number = Long(name);
            if (number > int.MaxValue || number < int.MinValue) throw new UsageException($"--{name} takes a smaller number.");
            return (int?)number;
        }

        public uint? UInt(string name)
        {
            long? number = Long(name);
            if (number < 0 || number > uint.MaxValue) throw new UsageException($"--{name} takes a number from 0 to {uint.MaxValue}.");
            return (uint?)number;
        }

        public double? Double(string name)
        {
            if (Text(name) == null) return null;
            if (double.TryParse(Text(name), NumberStyles.Float, CultureInfo.InvariantCulture, out double number)) return number;
            throw new UsageException($"--{name} takes a number.");
        }
    }

    /// <summary>The command line is invalid.</summary>
    internal sealed class UsageException : Exception
    {
        public UsageException(string message) : base(message) { }
    }
}
