using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Adabet.Device
{
    /// <summary> Reads JSON (RFC 8259) from an untrusted source, and writes strings. Objects become dictionaries,
    /// arrays lists, whole numbers long, others double. Apart from invalid JSON, these are rejected: duplicate keys,
    /// nesting deeper than 32, NUL in a string, and numbers of more than 64 characters.
    /// </summary>
    internal sealed class Json
    {
        public const int MostBytes = 1 << 24;
        private const int MostDepth = 32, MostDigits = 64;

        private readonly string text, what;
        private int at;

        private Json(string text, string what)
        {
            this.text = text;
            this.what = what;
        }

        /// <summary>Parse the content of a file.</summary>
        public static object Parse(byte[] bytes, int begin, int count, string what)
        {
            if (count > MostBytes)
                throw new DeviceException(DeviceError.WrongFile, $"{what} has {count} bytes of JSON, expected at most {MostBytes}.");
            string text;
            try
            {
                text = new UTF8Encoding(false, true).GetString(bytes, begin, count);
            }
            catch (ArgumentException error)
            {
                throw new DeviceException(DeviceError.WrongFile, $"{what} is not valid JSON: it is not UTF-8. Download it again.", error);
            }
            var reader = new Json(text, what);
            object value = reader.Value(1);
            reader.Blank();
            if (reader.at < text.Length) throw reader.Wrong("unexpected text after the value");
            return value;
        }

        /// <summary>A string as JSON.</summary>
        public static string Quoted(string text)
        {
            var made = new StringBuilder("\"");
            foreach (char c in text)
            {
                if (c == '"' || c == '\\') made.Append('\\').Append(c);
                else if (c < ' ') made.Append("\\u").Append(((int)c).ToString("x4", CultureInfo.InvariantCulture));
                else made.Append(c);
            }
            return made.Append('"').ToString();
        }

        /// <summary>A short readable form of a value, for messages.</summary>
        public static string Shown(object value)
        {
            if (value == null) return "null";
            if (value is string s) return Quoted(s.Length > 80 ? s.Substring(0, 80) + "..." : s);
            if (value is bool b) return b ? "true" : "false";
            if (value is List<object> list) return $"a list of {list.Count}";
            return value is Dictionary<string, object> ? "an object" : Convert.ToString(value, CultureInfo.InvariantCulture);
        }

        private DeviceException Wrong(string why)
        {
            return new DeviceException(DeviceError.WrongFile, $"{what} is not valid JSON: {why} at character {at}. Download it again.");
        }

        private bool Next(char c)
        {
            return at < text.Length && text[at] == c;
        }

        private void Blank()
        {
            while (Next(' ') || Next('\t') || Next('\n') || Next('\r')) at++;
        }

        private object Value(int depth)
        {
            if (depth > MostDepth) throw Wrong($"values more than {MostDepth} deep");
            Blank();
            if (Next('{')) return Object(depth);
            if (Next('[')) return List(depth);
            if (Next('"')) return String();
            if (Word("null")) return null;
            if (Word("true")) return true;
            if (Word("false")) return false;
            return Number();
        }

        private bool Word(string word)
        {
            if (string.CompareOrdinal(text, at, word, 0, word.Length) != 0) return false;
            at += word.Length;
            return true;
        }

        private Dictionary<string, object> Object(int depth)
        {
            var found = new Dictionary<string, object>(StringComparer.Ordinal);
            for (Open(); !Next('}'); Blank())
            {
                if (found.Count > 0) Comma();
                if (!Next('"')) throw Wrong("a missing key");
                string key = String();
                Blank();
                if (!Next(':')) throw Wrong("a missing colon");
                at++;
                object value = Value(depth + 1);
                if (found.ContainsKey(key)) throw Wrong($"the key {Shown(key)} twice in one object");
                found.Add(key, value);
            }
            at++;
            return found;
        }

        private List<object> List(int depth)
        {
            var found = new List<object>();
            for (Open(); !Next(']'); Blank())
            {
                if (found.Count > 0) Comma();
                found.Add(Value(depth + 1));
            }
            at++;
            return found;
        }

        private void Open()
        {
            at++;
            Blank();
        }

        private void Comma()
        {
            if (!Next(',')) throw Wrong("a missing comma or bracket");
            Open();
        }

        private string String()
        {
            var made = new StringBuilder();
            for (at++; !Next('"'); at++)
            {
                if (at >= text.Length) throw Wrong("an unterminated string");
                if (text[at] < ' ') throw Wrong("an invalid character in a string");
                made.Append(text[at] == '\\' ? Escaped() : text[at]);
            }
            at++;
            string found = made.ToString();
            if (found.IndexOf('\0') >= 0 || !IsWhole(found)) throw Wrong("NUL or half a surrogate pair in a string");
            return found;
        }

        private char Escaped()
        {
            const string plain = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
            at++;
            int which = at < text.Length ? plain.IndexOf(text[at]) : -1;
            if (which >= 0) return meant[which];
            if (!Next('u') || at + 4 >= text.Length) throw Wrong("an invalid escape in a string");
            int code = 0;
            for (int i = 0; i < 4; i++)
            {
                int digit = "0123456789abcdef".IndexOf(char.ToLowerInvariant(text[++at]));
                if (digit < 0) throw Wrong("an invalid escape in a string");
                code = 16 * code + digit;
            }
            return (char)code;
        }

        private static bool IsWhole(string text)
        {
            for (int i = 0; i < text.Length; i++)
            {
                if (!char.IsSurrogate(text[i])) continue;
                if (i + 1 == text.Length || !char.IsSurrogatePair(text[i], text[i + 1])) return false;
                i++;
            }
            return true;
        }

        private bool Digits()
        {
            int begin = at;
            while (at < text.Length && text[at] >= '0' && text[at] <= '9') at++;
            return at > begin;
        }

        private object Number()
        {
            int begin = at;
            bool whole = true;
            if (Next('-')) at++;
            if (Next('0')) at++;
            else if (!Digits()) throw Wrong("an unknown value");
            if (Next('.'))
            {
                whole = false;
                at++;
                if (!Digits()) throw Wrong("a number that ends with a decimal point");
            }
            if (Next('e') || Next('E'))
            {
                whole = false;
                at++;
                if (Next('+') || Next('-')) at++;
                if (!Digits()) throw Wrong("a number with an incomplete exponent");
            }
            if (at - begin > MostDigits) throw Wrong("a number with too many digits");
            return Converted(text.Substring(begin, at - begin), whole);
        }

        private object Converted(string digits, bool whole)
        {
            var culture = CultureInfo.InvariantCulture;
            if (whole && long.TryParse(digits, NumberStyles.AllowLeadingSign, culture, out long integer)) return integer;
            try
            {
                double number = double.Parse(digits, NumberStyles.Float, culture);
                if (double.IsInfinity(number)) throw Wrong("a number that is too large");
                return number;
            }
            catch (OverflowException)
            {
                throw Wrong("a number that is too large");
            }
        }
    }
}
