using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>Bytes that do not move, so that tensors can lie in them.</summary>
    internal sealed class Block : IDisposable
    {
        public readonly byte[] Bytes;
        private GCHandle pin;

        /// <param name="bytes">how many</param>
        /// <param name="what">that is, for the message where there is not enough memory</param>
        public Block(long bytes, string what) : this(Room(bytes, what)) { }

        /// <summary>Over an array that there is.</summary>
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
                $"There is not enough memory for {bytes} bytes of {what}. Take fewer samples or a smaller batch size, or keep no features.", cause);
        }

        /// <summary>A tensor in these bytes; it must not outlive them.</summary>
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

    /// <summary>Room for the rows of a batch, and the tensors over it.</summary>
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

        /// <summary>The tensor of the first rows. There are two sizes at most: that of a batch and that of the last one.</summary>
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
