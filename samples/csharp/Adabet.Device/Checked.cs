using System;
using System.Collections.Generic;
using System.Linq;

namespace Adabet.Device
{
    /// <summary>A value of a JSON file with its path, which messages give.</summary>
    internal sealed class Checked
    {
        /// <summary>More than any real size; sums of a few such values do not overflow.</summary>
        public const long Most = (1L << 47) - 1;

        private static readonly object Missing = new object();
        private readonly object value;
        private readonly string file, where;

        public Checked(object value, string file, string where = "")
        {
            this.value = value;
            this.file = file;
            this.where = where;
        }

        /// <summary>The exception for an unexpected value.</summary>
        public DeviceException Fail(string expected)
        {
            return Refuse($"should be {expected}, found {(value == Missing ? "nothing" : Json.Shown(value))}");
        }

        public DeviceException Refuse(string why)
        {
            return new DeviceException(DeviceError.WrongFile, $"{file}: {(where == "" ? "it" : where)} {why}. Download it again.");
        }

        public bool IsThere => value != Missing;

        public bool IsNull => value == null;

        public bool IsText => value is string;

        public bool Is(string word)
        {
            return value is string s && s == word;
        }

        public IEnumerable<string> Keys => AsObject().Keys;

        public Checked Key(string name)
        {
            string inside = where == "" ? name : $"{where}.{name}";
            return new Checked(AsObject().TryGetValue(name, out object found) ? found : Missing, file, inside);
        }

        private Dictionary<string, object> AsObject()
        {
            return value as Dictionary<string, object> ?? throw Fail("an object");
        }

        public List<T> List<T>(Func<Checked, T> read, int least = 0)
        {
            var items = value as List<object> ?? throw Fail("a list");
            if (items.Count < least) throw Fail($"a list of at least {least}");
            return items.Select((item, i) => read(new Checked(item, file, $"{where}[{i}]"))).ToList();
        }

        public string Text()
        {
            return value as string ?? throw Fail("a string");
        }

        public string TextOrNull()
        {
            return IsNull ? null : Text();
        }

        public string OneOf(params string[] words)
        {
            return words.FirstOrDefault(Is) ?? throw Fail(string.Join(" or ", words.Select(Json.Quoted)));
        }

        public bool Flag()
        {
            return value is bool b ? b : throw Fail("true or false");
        }

        public double Number()
        {
            return value is double d ? d : value is long l ? l : throw Fail("a number");
        }

        /// <summary>A whole number from least to most.</summary>
        public long Whole(long least = 0, long most = Most)
        {
            if (value is long l && l >= least && l <= most) return l;
            throw Fail(most == Most ? $"a whole number of at least {least}" : $"a whole number from {least} to {most}");
        }

        public int Count(int least = 0, int most = int.MaxValue)
        {
            return (int)Whole(least, most);
        }

        public uint Seed()
        {
            return (uint)Whole(0, uint.MaxValue);
        }

        public long Integer()
        {
            return Whole(-Most);
        }

        public string Sha256()
        {
            bool fits = value is string s && s.Length == 64 && s.All(c => "0123456789abcdef".IndexOf(c) >= 0);
            return fits ? (string)value : throw Fail("a SHA-256 of 64 hexadecimal digits");
        }

        /// <summary>A file name without folders, so that it cannot point outside the package.</summary>
        public string FileName()
        {
            bool fits = value is string s && s.Length > 0 && s.Length <= 200 && s[0] != '.' && s[s.Length - 1] != '.'
                && !s.Any(c => c < ' ' || "/\\:*?\"<>|".IndexOf(c) >= 0);
            return fits ? (string)value : throw Fail("the name of a file in the package, without folders");
        }

        /// <summary>Check that all are different.</summary>
        public void Unique(string what, IEnumerable<string> names)
        {
            var seen = new HashSet<string>(StringComparer.Ordinal);
            foreach (string name in names)
                if (!seen.Add(name)) throw Refuse($"has {what} {Json.Shown(name)} twice");
        }
    }
}
