using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>Pinned bytes, which tensors can refer to.</summary>
    internal sealed class Block : IDisposable
    {
        public readonly byte[] Bytes;
        private GCHandle pin;

        /// <param name="bytes">number of bytes</param>
        /// <param name="what">purpose of the memory, for the error message</param>
        public Block(long bytes, string what) : this(Room(bytes, what)) { }

        /// <summary>Uses an existing array.</summary>
        public Block(byte[] bytes)
        {
            Bytes = bytes;
            pin = GCHandle.Alloc(bytes, GCHandleType.Pinned);
        }

        public static byte[] Room(long bytes, string what)
        {
            Exception cause = null;
            try
            {
                if (bytes <= DType.MostBytes) return new byte[bytes];
            }
            catch (OutOfMemoryException error)
            {
                cause = error;
            }
            throw new DeviceException(DeviceError.OutOfMemory,
                $"There is not enough memory for {bytes} bytes of {what}. Use fewer samples or a smaller batch size, or do not keep features.", cause);
        }

        /// <summary>A tensor over these bytes; it must not outlive them.</summary>
        public OrtValue Tensor(DType type, long[] shape, long offset = 0)
        {
            long size = DType.Product(shape) * type.Bytes;
            if (offset < 0 || size > Bytes.Length - offset) throw new ArgumentOutOfRangeException(nameof(offset));
            IntPtr address = new IntPtr(pin.AddrOfPinnedObject().ToInt64() + offset);
            return OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, type.Element, shape, address, size);
        }

        public float Single(int at)
        {
            return BitConverter.ToSingle(Bytes, at);
        }

        public void Dispose()
        {
            if (pin.IsAllocated) pin.Free();
        }
    }

    /// <summary>Memory for the rows of a batch, and tensors over it.</summary>
    internal sealed class Feed : IDisposable
    {
        public readonly Port Port;
        public readonly Block Block;
        private readonly Dictionary<int, OrtValue> tensors = new Dictionary<int, OrtValue>();

        public Feed(Port port, int most)
        {
            Port = port;
            Block = new Block((long)most * port.RowBytes, $"a batch of {most} samples for {Json.Shown(port.Name)}");
        }

        /// <summary>The tensor of the first rows. There are at most two sizes: that of a batch and that of the last
        /// batch.</summary>
        public OrtValue Tensor(int rows)
        {
            if (!tensors.TryGetValue(rows, out OrtValue tensor))
                tensors[rows] = tensor = Block.Tensor(Port.Type, ShapeOf(Port, rows));
            return tensor;
        }

        public static long[] ShapeOf(Port port, int rows)
        {
            return port.Shape.Select(extent => extent == -1 ? rows : extent).ToArray();
        }

        public void Dispose()
        {
            foreach (var tensor in tensors.Values) tensor.Dispose();
            tensors.Clear();
            Block.Dispose();
        }
    }

    /// <summary>Disposes of several things.</summary>
    internal sealed class Bag : IDisposable
    {
        private readonly Stack<IDisposable> things = new Stack<IDisposable>();

        public T Add<T>(T thing) where T : IDisposable
        {
            things.Push(thing);
            return thing;
        }

        public void Dispose()
        {
            while (things.Count > 0) things.Pop().Dispose();
        }
    }
}
