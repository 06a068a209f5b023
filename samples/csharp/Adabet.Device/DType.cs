using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Adabet.Device
{
    /// <summary>A data type.</summary>
    internal sealed class DType
    {
        /// <summary>Limit of one tensor: that of .NET's arrays.</summary>
        public const long MostBytes = 0x7fffffc7;

        public readonly string Name;
        public readonly TensorElementType Element;
        public readonly int Bytes;
        private readonly Type[] arrays;

        private static readonly DType[] Known =
        {
            new DType("float32", TensorElementType.Float, 4, typeof(float)),
            new DType("float64", TensorElementType.Double, 8, typeof(double)),
            new DType("float16", TensorElementType.Float16, 2, typeof(ushort)),
            new DType("int8", TensorElementType.Int8, 1, typeof(sbyte)),
            new DType("int16", TensorElementType.Int16, 2, typeof(short)),
            new DType("int32", TensorElementType.Int32, 4, typeof(int)),
            new DType("int64", TensorElementType.Int64, 8, typeof(long)),
            new DType("uint8", TensorElementType.UInt8, 1, typeof(byte)),
            new DType("uint16", TensorElementType.UInt16, 2, typeof(ushort)),
            new DType("uint32", TensorElementType.UInt32, 4, typeof(uint)),
            new DType("uint64", TensorElementType.UInt64, 8, typeof(ulong)),
            new DType("bool", TensorElementType.Bool, 1, typeof(bool))
        };

        private DType(string name, TensorElementType element, int bytes, Type number)
        {
            Name = name;
            Element = element;
            Bytes = bytes;
            arrays = new[] { number, typeof(byte) };
        }

        public static readonly DType Float = Of("float32"), Int64 = Of("int64");
        public static readonly string[] Names = Known.Select(one => one.Name).ToArray();

        public static DType Of(string name)
        {
            return Known.FirstOrDefault(one => one.Name == name);
        }

        public static DType Of(TensorElementType element)
        {
            return Known.FirstOrDefault(one => one.Element == element);
        }

        /// <summary>Whether an array has this type, or holds raw bytes.</summary>
        public bool Takes(Array numbers)
        {
            return arrays.Contains(numbers.GetType().GetElementType());
        }

        /// <summary>Number of elements of a sample or a tensor; at most MostBytes + 1.</summary>
        public static long Product(IEnumerable<long> shape)
        {
            long product = 1;
            foreach (long extent in shape)
            {
                if (extent == -1) continue;
                if (extent > (MostBytes + 1) / product) return MostBytes + 1;
                product *= extent;
            }
            return product;
        }

        /// <summary>A shape in readable form.</summary>
        public static string Shown(IEnumerable<long> shape)
        {
            return shape == null ? "" : "[" + string.Join(", ", shape.Select(n => n == -1 ? "N" : n.ToString())) + "]";
        }
    }
}
