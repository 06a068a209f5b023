using System.Collections.Generic;
using System.Linq;
using System.Text.RegularExpressions;

namespace Adabet.Device
{
    /// <summary>Reads device.json and checks that every value that is used has the type and range of the
    /// format.</summary>
    internal static class Describe
    {
        public const string File = "device.json";

        /// <summary>The format cannot shuffle more samples.</summary>
        public const int MostSamples = 1 << 21;

        private const int MostPoints = 16384, MostSubsets = 1000000, MostDimensions = 16;

        public static Description From(byte[] bytes)
        {
            var root = new Checked(Json.Parse(bytes, 0, bytes.Length, File), File);
            if (!root.Key("format").Is("adabet-onnx/device")) throw root.Key("format").Fail("\"adabet-onnx/device\"");
            root.Key("version").Whole(1, 1);
            var about = new Description
            {
                Model = root.Key("model").Text(),
                ModelSha256 = root.Key("model_sha256").Sha256(),
                OldestOnnxRuntime = Version(root.Key("oldest_onnxruntime")),
                Files = Files(root.Key("files")),
                Inputs = root.Key("inputs").List(item => Batched(item, new Port()), 1),
                Outputs = root.Key("outputs").List(OutputPort, 1),
                Labels = Labels(root.Key("labels")),
                Training = Training(root.Key("training"))
            };
            root.Key("inputs").Unique("the input", about.Inputs.Select(port => port.Name));
            about.Weights = FileOrNull(root.Key("weights"), about.Files);
            about.ForwardBatch = Optional(root.Key("forward_batch")) ? (int?)root.Key("forward_batch").Count(1, 1) : null;
            if (Optional(root.Key("class_names"))) about.ClassNames = root.Key("class_names").List(name => name.Text());
            if (Optional(root.Key("preprocessing"))) about.Preprocessing = Preprocessing(root.Key("preprocessing"));
            if (Optional(root.Key("scoring"))) about.Scoring = Scoring(root.Key("scoring"), about.Files);
            about.Entries = root.Key("entries").List(item => DescribeEntry.From(item, about), 1);
            root.Key("entries").Unique("the entry", about.Entries.Select(entry => entry.Name));
            MarkRewritten(root, about);
            return about;
        }

        /// <summary>The files that personal models read are rewritten, so that they must not be used for anything
        /// else.</summary>
        private static void MarkRewritten(Checked root, Description about)
        {
            var others = about.Entries.SelectMany(entry => new[]
                { entry.Frozen, entry.Step, entry.Evaluation, entry.Prediction, entry.State, entry.Model, about.Weights, about.Scoring?.File });
            foreach (string name in about.Entries.Select(entry => entry.Selected))
            {
                if (others.Contains(name)) throw root.Key("entries").Refuse($"has {Json.Shown(name)} as selected and as another file");
                about.Files.First(file => file.Name == name).Rewritten = true;
            }
        }

        public static bool Optional(Checked value)
        {
            return value.IsThere && !value.IsNull;
        }

        /// <summary>The name of a file that the package must list.</summary>
        public static string FileOf(Checked value, IReadOnlyList<FileRecord> files)
        {
            string name = value.FileName();
            return files.Any(file => file.Name == name) ? name : throw value.Fail("one of files");
        }

        public static string FileOrNull(Checked value, IReadOnlyList<FileRecord> files)
        {
            return value.IsNull ? null : FileOf(value, files);
        }

        /// <summary>A shape whose tensor fits in an array; it begins with "N" if there are samples.</summary>
        public static List<long> Shape(Checked value, int bytesOfNumber, bool samples)
        {
            var shape = value.List(item => item.Is("N") ? -1 : item.Whole(1));
            if (shape.Count > MostDimensions) throw value.Fail($"a shape of at most {MostDimensions} dimensions");
            for (int i = 0; i < shape.Count; i++)
                if (shape[i] == -1 && (i > 0 || !samples)) throw value.Fail("a shape with \"N\" at most at the front");
            if (samples && (shape.Count == 0 || shape[0] != -1)) throw value.Fail("a shape that begins with \"N\"");
            if (DType.Product(shape) > DType.MostBytes / bytesOfNumber)
                throw value.Fail($"a shape of at most {DType.MostBytes} bytes");
            return shape;
        }

        /// <summary>A port: one row for each sample.</summary>
        public static T Batched<T>(Checked value, T port) where T : Port
        {
            if (value.Key("name").IsThere || !(port is LabelsPort)) port.Name = value.Key("name").Text();
            port.Dtype = value.Key("dtype").OneOf(DType.Names);
            port.Shape = Shape(value.Key("shape"), port.Type.Bytes, true);
            return port;
        }

        private static string Version(Checked value)
        {
            string text = value.Text();
            return Regex.IsMatch(text, @"^\d{1,4}(\.\d{1,4}){1,2}\z") ? text : throw value.Fail("a version such as \"1.17\"");
        }

        private static List<FileRecord> Files(Checked value)
        {
            var files = value.List(item => new FileRecord
            {
                Name = item.Key("name").FileName(),
                Bytes = item.Key("bytes").Whole(),
                Sha256 = item.Key("sha256").Sha256()
            }, 1);
            value.Unique("the file", files.Select(file => file.Name));
            return files;
        }

        private static OutputPort OutputPort(Checked value)
        {
            return new OutputPort
            {
                Name = value.Key("name").Text(),
                Dtype = value.Key("dtype").Text(),
                Shape = value.Key("shape").List(OutputExtent),
                Role = value.Key("role").IsNull ? null : value.Key("role").OneOf("logits", "probabilities")
            };
        }

        private static string OutputExtent(Checked item)
        {
            const string symbol = @"^(\d{1,9}\*)?N\z";
            if (!item.IsText) return item.Whole().ToString();
            return Regex.IsMatch(item.Text(), symbol) ? item.Text() : throw item.Fail("a number or \"N\"");
        }

        private static LabelsPort Labels(Checked value)
        {
            value.Key("dtype").OneOf("int64", "float32");
            var labels = Batched(value, new LabelsPort());
            labels.Name = "labels";
            if (Optional(value.Key("classes"))) labels.Classes = value.Key("classes").Count(1);
            if (Optional(value.Key("ignore"))) labels.Ignore = value.Key("ignore").Integer();
            return labels;
        }

        private static Preprocessing Preprocessing(Checked value)
        {
            var rule = new Preprocessing
            {
                Scale = NotZero(value.Key("scale")),
                Mean = value.Key("mean").List(item => item.Number(), 1),
                Std = value.Key("std").List(NotZero, 1),
                Bgr = Optional(value.Key("bgr")) && value.Key("bgr").Flag()
            };
            if (Optional(value.Key("channel_axis"))) rule.ChannelAxis = value.Key("channel_axis").Count(1, MostDimensions);
            return rule;
        }

        private static double NotZero(Checked item)
        {
            return item.Number() != 0 ? item.Number() : throw item.Fail("a number other than 0");
        }

        private static TrainingDefaults Training(Checked value)
        {
            double rate = value.Key("learning_rate").Number();
            return new TrainingDefaults
            {
                LearningRate = rate > 0 ? rate : throw value.Key("learning_rate").Fail("a number above 0"),
                BatchSize = value.Key("batch_size").Count(1, MostSamples),
                Epochs = value.Key("epochs").Count(1),
                Seed = value.Key("seed").Seed()
            };
        }

        private static ScoringPlan Scoring(Checked value, IReadOnlyList<FileRecord> files)
        {
            var plan = new ScoringPlan
            {
                File = FileOf(value.Key("file"), files),
                Samples = value.Key("samples").Count(Adabet.Device.Scoring.Fewest, MostPoints),
                Points = value.Key("points").Count(1, MostPoints),
                Subsets = value.Key("subsets").Count(1, MostSubsets),
                Seed = value.Key("seed").Seed(),
                Layers = value.Key("layers").List(layer => new ScoredLayer
                {
                    Name = layer.Key("name").Text(),
                    Output = layer.Key("output").Text(),
                    Numbers = layer.Key("numbers").Count(1, (int)(DType.MostBytes / 4)),
                    Size = layer.Key("size").Whole(1)
                }, 1)
            };
            value.Key("layers").Unique("the layer", plan.Layers.Select(layer => layer.Name));
            return plan;
        }
    }
}
