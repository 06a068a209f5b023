using System;
using System.Linq;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>The values that training changes: bytes of all tensors of an entry at their offsets.</summary>
    internal static class State
    {
        /// <summary>Initial values: those of the file, and zeros for the optimizer.</summary>
        public static byte[] Initial(PackageFiles files, Entry entry)
        {
            byte[] state = Block.Room(entry.StateBytes, "the trained values"), file = files.Read(entry.State);
            Buffer.BlockCopy(file, 0, state, 0, file.Length);
            CheckFinite(entry, state, entry.KeptCount, DeviceError.NotFinite, "Copy the package again.");
            return state;
        }

        /// <summary>Check that the first tensors have no NaN or infinite numbers.</summary>
        public static void CheckFinite(Entry entry, byte[] state, int count, DeviceError error, string advice)
        {
            foreach (var tensor in entry.Tensors.Take(count))
                for (int at = tensor.Offset; at < tensor.Offset + tensor.Bytes; at += 4)
                {
                    // A float32 whose exponent bits are all set is NaN or infinite.
                    if ((state[at + 3] & 0x7f) != 0x7f || (state[at + 2] & 0x80) == 0) continue;
                    throw new DeviceException(error, $"{Json.Shown(tensor.Name)} has {BitConverter.ToSingle(state, at)} as number "
                        + $"{(at - tensor.Offset) / 4}. {advice}");
                }
        }

        /// <summary>A tensor as an input or output of a graph.</summary>
        public static Port Port(TensorRecord tensor, bool output)
        {
            return new Port { Name = output ? tensor.Output : tensor.Input, Dtype = "float32", Shape = tensor.Shape };
        }
    }

    /// <summary>A state as tensors.</summary>
    internal sealed class StateTensors : IDisposable
    {
        public readonly Block Block;
        public readonly OrtValue[] Values;

        /// <param name="state">is not copied</param>
        /// <param name="count">number of tensors, from the first</param>
        public StateTensors(Entry entry, byte[] state, int count)
        {
            Block = new Block(state);
            Values = entry.Tensors.Take(count).Select(tensor => Block.Tensor(DType.Float, tensor.Shape.ToArray(), tensor.Offset)).ToArray();
        }

        public void Dispose()
        {
            foreach (var value in Values) value.Dispose();
            Block.Dispose();
        }
    }
}
