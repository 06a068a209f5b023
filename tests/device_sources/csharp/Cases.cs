// Cases for samples/csharp, compiled together with the library: many in one process.
//
//     mono cases.exe betti FILE SUBSETS       numbers of all matrices; a blank line; numbers of subsets, one line each
//     mono cases.exe menu FILE                the choice, or the smallest memory needed, one line per case
//     mono cases.exe random                   the first numbers, a shuffle, a subset
//     mono cases.exe ports PACKAGE            ports in device.json and in the graphs, as the library reads them
//     mono cases.exe try X Y OUT              packages named on standard input, one line each: stage, error, message
//     mono cases.exe delta PACKAGE            files named on standard input, one line each: error, message
//     mono cases.exe behaviour PACKAGE X Y F  checks of cancelling, pausing, disposing and so on
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;
using Adabet.Device;
using Microsoft.ML.OnnxRuntime;

internal static class Cases
{
    private static void Main(string[] words)
    {
        CultureInfo.DefaultThreadCurrentCulture = CultureInfo.CurrentCulture = new CommaCulture();
        if (words[0] == "betti") Betti(words[1], words[2]);
        else if (words[0] == "menu") Menu(words[1]);
        else if (words[0] == "random") Random();
        else if (words[0] == "ports") Ports(words[1]);
        else if (words[0] == "try") Try(words[1], words[2], words[3]);
        else if (words[0] == "delta") Delta(words[1]);
        else if (words[0] == "behaviour") Behaviour.Run(words[1], words[2], words[3], words[4]);
        else throw new ArgumentException(words[0]);
    }

    /// <summary>A culture with a decimal comma and another minus sign, which reading and writing must not depend
    /// on.</summary>
    private sealed class CommaCulture : CultureInfo
    {
        public CommaCulture() : base("")
        {
            NumberFormat = new NumberFormatInfo { NumberDecimalSeparator = ",", NegativeSign = "~", NumberGroupSeparator = "." };
        }
    }

    private static void Betti(string path, string subsetsPath)
    {
        var counted = new List<string>();
        using (var file = new BinaryReader(File.OpenRead(path)))
        using (var subsets = new BinaryReader(File.OpenRead(subsetsPath)))
        {
            if (file.ReadUInt32() != 0x31544542) throw new InvalidDataException("a file does not start with BET1");
            for (uint left = file.ReadUInt32(); left > 0; left--)
            {
                int points = file.ReadUInt16(), width = file.ReadUInt16();
                file.ReadUInt32();
                var distance = new float[points * points];
                for (int i = 0; i < points; i++)
                    for (int j = i + 1; j < points; j++)
                        distance[i * points + j] = distance[j * points + i] = width == 8 ? (float)file.ReadDouble() : file.ReadSingle();
                Console.WriteLine(Loops.Count(distance, points));
                int count = subsets.ReadInt32(), size = subsets.ReadInt32();
                var chosen = Enumerable.Range(0, count).Select(_ => Enumerable.Range(0, size).Select(k => subsets.ReadInt32()).ToArray());
                counted.Add(string.Join(" ", new Loops(distance, points).Count(chosen.ToList())));
            }
        }
        Console.WriteLine();
        foreach (string line in counted) Console.WriteLine(line);
    }

    private static void Menu(string path)
    {
        byte[] bytes = File.ReadAllBytes(path);
        foreach (var one in new Checked(Json.Parse(bytes, 0, bytes.Length, path), path).Key("cases").List(item => item))
        {
            var entries = one.Key("entries").List(entry => new Entry
            {
                Name = entry.Key("name").Text(),
                Layers = entry.Key("layers").List(layer => layer.Text()),
                Memory = entry.Key("memory").List(pair => pair.List(number => number.Whole())).Select(p => new MemoryPair(p[0], p[1])).ToList()
            });
            var scores = one.Key("scores").Keys.ToDictionary(name => name, name => one.Key("scores").Key(name).Number());
            long? limit = one.Key("limit").IsNull ? null : (long?)one.Key("limit").Whole();
            int batch = one.Key("batch").Count(1);
            string least = entries.Min(entry => entry.NeededBytes(batch)).ToString(CultureInfo.InvariantCulture);
            try
            {
                Console.WriteLine($"{least} {Choosing.Choose(entries, scores, limit, batch).Entry}");
            }
            catch (DeviceException error)
            {
                Console.WriteLine($"{least} {error.Error}: {error.Message}");
            }
        }
    }

    private static void Random()
    {
        var random = new DocumentedRandom(0, 1);
        Console.WriteLine(string.Join(" ", Enumerable.Range(0, 4).Select(_ => random.Next())));
        Console.WriteLine(string.Join(" ", DocumentedRandom.Shuffle(1000, uint.MaxValue - 6, 3)));
        Console.WriteLine(string.Join(" ", DocumentedRandom.Shuffle(7, 5, 1)));
        var again = new DocumentedRandom(12345, 0);
        for (int i = 0; i < 3; i++) Console.WriteLine(string.Join(" ", again.Subset(100, 30)));
    }

    private static string Line(params object[] parts)
    {
        return string.Join("\t", parts);
    }

    private static void Ports(string folder)
    {
        using (var package = DevicePackage.OpenAsync(folder).GetAwaiter().GetResult())
        {
            var about = package.Description;
            foreach (var port in about.Inputs) Console.WriteLine(Line("input", port.Name, port.Dtype, DType.Shown(port.Shape)));
            Console.WriteLine(Line("labels", about.Labels.Dtype, DType.Shown(about.Labels.Shape)));
            foreach (var entry in about.Entries)
            {
                foreach (var port in entry.Boundary) Console.WriteLine(Line("boundary", port.Name, port.Dtype, DType.Shown(port.Shape)));
                foreach (var tensor in entry.Tensors)
                    Console.WriteLine(Line(tensor.Kind.ToString().ToLowerInvariant(), tensor.Name, "float32", DType.Shown(tensor.Shape), tensor.Offset));
                foreach (string file in new[] { entry.Frozen, entry.Step, entry.Evaluation, entry.Prediction, entry.Model, about.Scoring?.File })
                    if (file != null) Graph(Path.Combine(folder, file), file);
            }
        }
    }

    private static void Graph(string path, string file)
    {
        using (var session = new InferenceSession(path))
        {
            foreach (string side in new[] { "in", "out" })
                foreach (string name in side == "in" ? session.InputNames : session.OutputNames)
                {
                    var found = side == "in" ? session.InputMetadata[name] : session.OutputMetadata[name];
                    Console.WriteLine(Line(file, side, name, DType.Of(found.ElementDataType).Name,
                        DType.Shown(found.Dimensions.Select(n => n < 0 ? -1L : n))));
                }
        }
    }

    private static void Try(string x, string y, string output)
    {
        byte[] samples = File.ReadAllBytes(x), labels = File.ReadAllBytes(y);
        string folder;
        for (int i = 0; (folder = Console.ReadLine()) != null; i++)
        {
            string stage = "open", place = Path.Combine(output, "p" + i);
            try
            {
                using (var package = DevicePackage.OpenAsync(folder).GetAwaiter().GetResult())
                {
                    stage = "score";
                    var scores = package.ScoreAsync(new Samples(samples)).GetAwaiter().GetResult();
                    stage = "choose";
                    string entry = package.Choose(scores).Entry;
                    using (var training = package.TrainingAsync(entry).GetAwaiter().GetResult())
                    {
                        var data = new Labelled(new Samples(samples), labels);
                        stage = "fit";
                        training.FitAsync(data, new FitOptions { Epochs = 1, ProgressFile = place + ".progress", HeldOut = data }).GetAwaiter().GetResult();
                        stage = "predict";
                        training.PredictAsync(new Samples(samples)).GetAwaiter().GetResult();
                        stage = "save";
                        training.SaveDeltaAsync(place + ".delta").GetAwaiter().GetResult();
                        training.SaveModelAsync(place + ".model").GetAwaiter().GetResult();
                    }
                }
                Console.WriteLine(Line(stage, "none", ""));
            }
            catch (DeviceException error)
            {
                Console.WriteLine(Line(stage, error.Error, error.Message.Replace("\n", " ").Replace("\t", " ")));
            }
        }
    }

    private static void Delta(string folder)
    {
        using (var package = DevicePackage.OpenAsync(folder).GetAwaiter().GetResult())
        using (var training = package.TrainingAsync().GetAwaiter().GetResult())
        {
            string path;
            while ((path = Console.ReadLine()) != null)
            {
                try
                {
                    training.LoadAsync(path).GetAwaiter().GetResult();
                    Console.WriteLine(Line("none", training.Epoch, training.Step));
                }
                catch (DeviceException error)
                {
                    Console.WriteLine(Line(error.Error, error.Message.Replace("\n", " ").Replace("\t", " ")));
                }
            }
        }
    }
}
