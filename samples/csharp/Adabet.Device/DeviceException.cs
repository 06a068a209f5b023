using System;
using System.IO;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>Error codes, for programs; the message is for users.</summary>
    public enum DeviceError
    {
        /// <summary>A file is missing, damaged or invalid.</summary>
        WrongFile,
        /// <summary>A file does not have the recorded SHA-256.</summary>
        WrongHash,
        /// <summary>The size or type of data or of a tensor does not match the model.</summary>
        WrongShape,
        /// <summary>A label that is not a class.</summary>
        LabelOutOfRange,
        /// <summary>Numbers that are NaN or infinite.</summary>
        NotFinite,
        /// <summary>Training diverged; the values are those of the last complete epoch.</summary>
        LossNotFinite,
        /// <summary>Out of memory, or the memory limit is too small.</summary>
        OutOfMemory,
        /// <summary>A file cannot be written: no space or no permission.</summary>
        Storage,
        /// <summary>A delta or progress file belongs to another model, package, entry or training.</summary>
        WrongModel,
        /// <summary>Too few samples to score, train or evaluate with.</summary>
        TooFewSamples,
        /// <summary>An invalid option.</summary>
        WrongOption,
        /// <summary>The entry is being trained.</summary>
        Busy,
        /// <summary>ONNX Runtime is missing, too old, or reports an error.</summary>
        Runtime
    }

    /// <summary> The only exception that this library throws, apart from those for cancellation, disposed objects and
    /// null arguments.
    /// </summary>
    public sealed class DeviceException : Exception
    {
        internal DeviceException(DeviceError error, string message, Exception cause = null) : base(message, cause)
        {
            Error = error;
        }

        /// <summary>What went wrong.</summary>
        public DeviceError Error { get; }

        /// <summary>Convert an exception of the runtime or .NET to a DeviceException.</summary>
        internal static Exception From(Exception thrown, string doing)
        {
            if (thrown is DeviceException || thrown is OperationCanceledException || thrown is ObjectDisposedException) return thrown;
            if (thrown is OutOfMemoryException || (thrown is OnnxRuntimeException && IsMemory(thrown.Message)))
                return new DeviceException(DeviceError.OutOfMemory, $"There is not enough memory for {doing}. Use a smaller batch "
                    + "size, do not keep features, or use an entry that needs less.", thrown);
            if (thrown is TypeInitializationException || thrown is DllNotFoundException || thrown is EntryPointNotFoundException
                || thrown is BadImageFormatException)
                return new DeviceException(DeviceError.Runtime, $"ONNX Runtime's native library cannot be used: {Innermost(thrown)} Add "
                    + "the package Microsoft.ML.OnnxRuntime, or put the library where the program finds it.", thrown);
            bool file = thrown is IOException || thrown is UnauthorizedAccessException;
            return new DeviceException(file ? DeviceError.WrongFile : DeviceError.Runtime, $"Failed while {doing}: {Sentence(thrown)}", thrown);
        }

        internal static string Sentence(Exception thrown)
        {
            return thrown.Message.TrimEnd(' ', '.', '\n', '\r') + ".";
        }

        private static string Innermost(Exception thrown)
        {
            while (thrown.InnerException != null) thrown = thrown.InnerException;
            return Sentence(thrown);
        }

        private static bool IsMemory(string message)
        {
            foreach (string sign in new[] { "bad_alloc", "Failed to allocate", "out of memory", "failed to allocate" })
                if (message.IndexOf(sign, StringComparison.Ordinal) >= 0) return true;
            return false;
        }
    }
}
