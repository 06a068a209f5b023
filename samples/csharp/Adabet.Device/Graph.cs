using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>Opens graphs of a package.</summary>
    internal sealed class Runtime
    {
        private readonly PackageFiles files;
        private readonly Description about;
        private readonly OpenOptions options;

        public Runtime(PackageFiles files, Description about, OpenOptions options)
        {
            this.files = files;
            this.about = about;
            this.options = options;
        }

        /// <summary>Reject a runtime that is too old.</summary>
        public static void Check(Description about)
        {
            string found = OrtEnv.Instance().GetVersionString();
            var expected = new Version(about.OldestOnnxRuntime);
            if (Version.TryParse(found.Split('-', '+')[0], out Version version) && version >= expected) return;
            throw new DeviceException(DeviceError.Runtime, $"This is ONNX Runtime {found}, the package needs {expected} or newer.");
        }

        /// <param name="file">the graph</param>
        /// <param name="inputs">possible inputs; the graph may lack some</param>
        /// <param name="outputs">requested outputs</param>
        /// <param name="plain">run on the CPU, whatever the program configured</param>
        public Graph Open(string file, IReadOnlyList<Port> inputs, IReadOnlyList<Port> outputs, bool plain = false)
        {
            string path = files.CheckedPath(file);
            if (about.Weights != null) files.CheckedPath(about.Weights);
            using (var session = new SessionOptions())
            {
                session.IntraOpNumThreads = options.Threads;
                session.InterOpNumThreads = 1;
                session.LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL;
                if (!plain) options.Configure?.Invoke(session, file);
                try
                {
                    return new Graph(new InferenceSession(path, session), file, inputs, outputs);
                }
                catch (OnnxRuntimeException error)
                {
                    var known = (DeviceException)DeviceException.From(error, $"opening {file}");
                    if (known.Error == DeviceError.OutOfMemory) throw known;
                    throw new DeviceException(DeviceError.WrongFile, $"{file} cannot be opened: {DeviceException.Sentence(error)} "
                        + $"Copy the package again; it needs ONNX Runtime {about.OldestOnnxRuntime} or newer.", error);
                }
            }
        }
    }

    /// <summary>An open graph, with inputs and outputs checked against device.json.</summary>
    internal sealed class Graph : IDisposable
    {
        private readonly InferenceSession session;
        private readonly string file;
        private readonly string[] inputNames, outputNames;
        private readonly int[] places; // indices of the graph's inputs among the possible ones

        public Graph(InferenceSession session, string file, IReadOnlyList<Port> inputs, IReadOnlyList<Port> outputs)
        {
            this.session = session;
            this.file = file;
            try
            {
                inputNames = session.InputNames.ToArray();
                outputNames = outputs.Select(port => port.Name).ToArray();
                places = inputNames.Select(name => Place(name, inputs)).ToArray();
                for (int i = 0; i < places.Length; i++) Compare(session.InputMetadata[inputNames[i]], inputs[places[i]], "input");
                foreach (var port in outputs)
                {
                    if (!session.OutputMetadata.TryGetValue(port.Name, out NodeMetadata found)) throw Mismatch($"has no output {Json.Shown(port.Name)}");
                    Compare(found, port, "output");
                }
            }
            catch
            {
                session.Dispose();
                throw;
            }
        }

        private int Place(string name, IReadOnlyList<Port> inputs)
        {
            for (int i = 0; i < inputs.Count; i++)
                if (inputs[i].Name == name) return i;
            throw Mismatch($"has an input {Json.Shown(name)} that device.json does not list");
        }

        private void Compare(NodeMetadata found, Port expected, string side)
        {
            bool same = found.IsTensor && (expected.Dtype == null || found.ElementDataType == expected.Type.Element);
            bool told = found.IsTensor && found.Dimensions.Length > 0; // outputs may have no shape
            if (same && expected.Shape != null && (told || side == "input"))
            {
                same = found.Dimensions.Length == expected.Shape.Count;
                for (int i = 0; same && i < expected.Shape.Count; i++)
                    same = found.Dimensions[i] < 0 || expected.Shape[i] == -1 || found.Dimensions[i] == expected.Shape[i];
            }
            if (same) return;
            string type = found.IsTensor ? $"{DType.Of(found.ElementDataType)?.Name ?? "another type"} "
                + DType.Shown(found.Dimensions.Select(n => n < 0 ? -1L : n)) : "no tensor";
            throw Mismatch($"has the {side} {Json.Shown(expected.Name)} as {type}, expected {expected.Dtype} {DType.Shown(expected.Shape)}");
        }

        private DeviceException Mismatch(string why)
        {
            return new DeviceException(DeviceError.WrongFile,
                $"{file} {why}: it does not belong to this device.json. Copy the package again.");
        }

        /// <summary>Run it, and write the outputs to the given tensors.</summary>
        /// <param name="inputs">in the order in which it was opened</param>
        /// <param name="outputs">the same for outputs</param>
        /// <param name="stop">cancels a run</param>
        public void Run(OrtValue[] inputs, OrtValue[] outputs, RunStop stop)
        {
            Guarded(() =>
            {
                session.Run(stop.Options, inputNames, places.Select(place => inputs[place]).ToArray(), outputNames, outputs);
                return true;
            }, stop);
        }

        /// <summary>Run it if the shapes of outputs are not known beforehand.</summary>
        public IDisposableReadOnlyCollection<OrtValue> Run(OrtValue[] inputs, RunStop stop)
        {
            return Guarded(() => session.Run(stop.Options, inputNames, places.Select(place => inputs[place]).ToArray(), outputNames), stop);
        }

        private T Guarded<T>(Func<T> run, RunStop stop)
        {
            try
            {
                return run();
            }
            catch (OnnxRuntimeException error)
            {
                stop.Token.ThrowIfCancellationRequested();
                throw DeviceException.From(error, $"running {file}");
            }
        }

        public void Dispose()
        {
            session.Dispose();
        }
    }

    /// <summary>Ends runs of graphs when a token is cancelled.</summary>
    internal sealed class RunStop : IDisposable
    {
        public readonly RunOptions Options = new RunOptions();
        public readonly CancellationToken Token;
        private readonly CancellationTokenRegistration registration;

        public RunStop(CancellationToken token)
        {
            Token = token;
            registration = token.Register(() => Options.Terminate = true);
        }

        public void Dispose()
        {
            registration.Dispose();
            Options.Dispose();
        }
    }
}
