using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;

namespace Adabet.Device
{
    /// <summary>A tensor in a safetensors file.</summary>
    internal sealed class StoredTensor
    {
        public string Name, Dtype;
        public List<long> Shape;
        public long Begin, End;
    }

    /// <summary>A safetensors file from an untrusted source: everything is checked.</summary>
    internal sealed class SafeTensors
    {
        public readonly byte[] Bytes;
        public readonly int DataBegin;
        public readonly Dictionary<string, string> Metadata = new Dictionary<string, string>(StringComparer.Ordinal);
        public readonly Dictionary<string, StoredTensor> Tensors = new Dictionary<string, StoredTensor>(StringComparer.Ordinal);

        /// <param name="what">name of the file for messages</param>
        public SafeTensors(byte[] bytes, string what)
        {
            Bytes = bytes;
            long header = bytes.Length >= 8 ? BitConverter.ToInt64(bytes, 0) : -1;
            if (header < 0 || header > bytes.Length - 8)
                throw new DeviceException(DeviceError.WrongFile,
                    $"{what} is not a complete safetensors file: it has {bytes.Length} bytes, and a header of {header}. Download it again.");
            DataBegin = 8 + (int)header;
            var root = new Checked(Json.Parse(bytes, 8, (int)header, what), what);
            foreach (string name in root.Keys)
            {
                if (name == "__metadata__") ReadMetadata(root.Key(name));
                else Tensors.Add(name, ReadTensor(name, root.Key(name)));
            }
            CheckPlaces(root);
        }

        public int DataBytes => Bytes.Length - DataBegin;

        private void ReadMetadata(Checked value)
        {
            foreach (string key in value.Keys) Metadata.Add(key, value.Key(key).Text());
        }

        private static StoredTensor ReadTensor(string name, Checked value)
        {
            var offsets = value.Key("data_offsets").List(item => item.Whole());
            if (offsets.Count != 2) throw value.Key("data_offsets").Fail("[begin, end]");
            return new StoredTensor
            {
                Name = name,
                Dtype = value.Key("dtype").Text(),
                Shape = value.Key("shape").List(item => item.Whole()),
                Begin = offsets[0],
                End = offsets[1]
            };
        }

        /// <summary>Check that tensors fill the data without gaps and without overlapping.</summary>
        private void CheckPlaces(Checked root)
        {
            long end = 0;
            foreach (var tensor in Tensors.Values.OrderBy(tensor => tensor.Begin).ThenBy(tensor => tensor.End))
            {
                if (tensor.Begin != end || tensor.End < end)
                    throw root.Refuse($"has {Json.Shown(tensor.Name)} from {tensor.Begin} to {tensor.End}, expected it to begin at {end}");
                end = tensor.End;
            }
            if (end != DataBytes) throw root.Refuse($"has tensors that end at {end}, expected {DataBytes}, the end of the file");
        }

        /// <summary>The header of a file with the first tensors of an entry, padded so that the data is
        /// aligned.</summary>
        public static byte[] Header(IEnumerable<KeyValuePair<string, string>> metadata, IEnumerable<TensorRecord> tensors)
        {
            var pairs = metadata.Select(pair => $"{Json.Quoted(pair.Key)}:{Json.Quoted(pair.Value)}");
            var text = new StringBuilder("{\"__metadata__\":{" + string.Join(",", pairs) + "}");
            long end = 0;
            foreach (var tensor in tensors)
            {
                text.Append($",{Json.Quoted(tensor.Name)}:{{\"dtype\":\"F32\",\"shape\":[{string.Join(",", tensor.Shape)}],"
                    + $"\"data_offsets\":[{end},{end + tensor.Bytes}]}}");
                end += tensor.Bytes;
            }
            byte[] json = new UTF8Encoding(false).GetBytes(text.Append('}').ToString());
            var header = new byte[(8 + json.Length + 63) / 64 * 64];
            for (int i = 8; i < header.Length; i++) header[i] = (byte)' ';
            Buffer.BlockCopy(BitConverter.GetBytes((long)header.Length - 8), 0, header, 0, 8);
            Buffer.BlockCopy(json, 0, header, 8, json.Length);
            return header;
        }
    }
}
