using System;
using System.Collections.Generic;
using System.Linq;

namespace Adabet.Device
{
    /// <summary>One choice of layers in device.json, checked.</summary>
    internal static class DescribeEntry
    {
        public static Entry From(Checked value, Description about)
        {
            Func<string, string> file = key => Describe.FileOf(value.Key(key), about.Files);
            Func<string, string> name = key => value.Key("names").Key(key).Text();
            var entry = new Entry
            {
                Name = value.Key("name").Text(),
                Layers = value.Key("layers").List(layer => layer.Text()),
                Trained = value.Key("trained").Whole(1),
                Frozen = Describe.FileOrNull(value.Key("frozen"), about.Files),
                Step = file("step"),
                Evaluation = file("evaluation"),
                Prediction = file("prediction"),
                State = file("state"),
                Model = Describe.FileOrNull(value.Key("model"), about.Files),
                Selected = file("selected"),
                SelectedBytes = value.Key("selected_bytes").Count(1, (int)DType.MostBytes),
                LabelsName = name("labels"),
                RateName = name("learning_rate"),
                StepName = name("step"),
                LossName = name("loss"),
                Logits = new Port { Name = name("logits"), Dtype = "float32" },
                Tensors = value.Key("tensors").List(Tensor, 1),
                Memory = value.Key("memory").List(Pair, 1)
            };
            entry.Boundary = value.Key("boundary").List(item => OneBoundary(item, about, entry), 1);
            entry.Logits.Shape = Describe.Shape(value.Key("logits_shape"), 4, true);
            entry.ClassAxis = ClassAxis(value, entry, about.Labels);
            Layout(value, entry, about.Files);
            for (int i = 1; i < entry.Memory.Count; i++)
                if (entry.Memory[i].Batch <= entry.Memory[i - 1].Batch) throw value.Key("memory").Fail("pairs with ascending batches");
            return entry;
        }

        private static MemoryPair Pair(Checked value)
        {
            var pair = value.List(item => item.Whole(1), 2);
            return pair.Count == 2 ? new MemoryPair(pair[0], pair[1]) : throw value.Fail("[batch, bytes]");
        }

        private static Boundary OneBoundary(Checked value, Description about, Entry entry)
        {
            var port = Describe.Batched(value, new Boundary { Input = value.Key("input").TextOrNull() });
            if (value.Key("bytes").Whole(1) != port.RowBytes) throw value.Key("bytes").Fail($"the {port.RowBytes} bytes of its shape");
            if (port.Input == null)
                return entry.Frozen != null ? port : throw value.Key("input").Fail("an input of the model, as there is no frozen graph");
            var same = about.Inputs.FirstOrDefault(input => input.Name == port.Input)
                ?? throw value.Key("input").Fail("an input of the model");
            if (same.Dtype != port.Dtype || !same.Shape.SequenceEqual(port.Shape))
                throw value.Refuse($"should equal the input {Json.Shown(port.Input)}, {same.Dtype} {DType.Shown(same.Shape)}, "
                    + $"found {port.Dtype} {DType.Shown(port.Shape)}");
            return port;
        }

        private static int? ClassAxis(Checked value, Entry entry, LabelsPort labels)
        {
            if (!Describe.Optional(value.Key("class_axis"))) return null;
            int axis = value.Key("class_axis").Count(1, entry.Logits.Shape.Count - 1);
            long classes = entry.Logits.Shape[axis];
            if (labels.Classes > classes)
                throw value.Key("logits_shape").Refuse($"has {classes} classes, labels have {labels.Classes}");
            return axis;
        }

        private static TensorRecord Tensor(Checked value)
        {
            value.Key("dtype").OneOf("float32");
            var kinds = new List<string> { "parameter", "statistic", "optimizer" };
            var tensor = new TensorRecord
            {
                Name = value.Key("name").Text(),
                Kind = (TensorKind)kinds.IndexOf(value.Key("kind").OneOf(kinds.ToArray())),
                Input = value.Key("input").Text(),
                Output = value.Key("output").Text(),
                Shape = Describe.Shape(value.Key("shape"), 4, false),
                Offset = value.Key("offset").Count(0, (int)DType.MostBytes),
                Bytes = value.Key("bytes").Count(4, (int)DType.MostBytes)
            };
            long expected = 4 * DType.Product(tensor.Shape);
            if (tensor.Bytes != expected) throw value.Key("bytes").Fail($"the {expected} bytes of its shape");
            return tensor;
        }

        /// <summary>Check the order of tensors: first those in the personal model's file, then the
        /// optimizer's.</summary>
        private static void Layout(Checked value, Entry entry, IReadOnlyList<FileRecord> files)
        {
            Checked where = value.Key("tensors"), size = value.Key("selected_bytes");
            long end = 0, kept = 0;
            var last = TensorKind.Parameter;
            foreach (var tensor in entry.Tensors)
            {
                if (tensor.Kind < last)
                    throw where.Refuse($"should have parameters first, then statistics, then the optimizer's, found {Json.Shown(tensor.Name)}");
                if (tensor.Offset % 64 != 0 || tensor.Offset < end || tensor.Offset - end >= 64)
                    throw where.Refuse($"has {Json.Shown(tensor.Name)} at {tensor.Offset}, expected the next multiple of 64 at or after {end}");
                if (tensor.Bytes > entry.SelectedBytes) // before memory is allocated for it
                    throw where.Refuse($"has {Json.Shown(tensor.Name)} of {tensor.Bytes} bytes, more than the "
                        + $"{entry.SelectedBytes} of all that is trained");
                last = tensor.Kind;
                end = (long)tensor.Offset + tensor.Bytes;
                if (tensor.Kind == TensorKind.Optimizer) continue;
                kept = end;
                entry.KeptCount++;
            }
            if (entry.Tensors[0].Kind != TensorKind.Parameter) throw where.Refuse("should have at least one parameter");
            if (entry.SelectedBytes < kept || entry.SelectedBytes - kept >= 64)
                throw size.Fail($"where parameters and statistics end, {kept}, at most filled up to a multiple of 64");
            if (end > DType.MostBytes) throw where.Refuse($"has {end} bytes, expected at most {DType.MostBytes}");
            entry.StateBytes = (int)Math.Max(end, entry.SelectedBytes);
            foreach (string name in new[] { entry.State, entry.Selected })
            {
                long bytes = files.First(file => file.Name == name).Bytes;
                if (bytes != entry.SelectedBytes) throw size.Fail($"the {bytes} bytes of {name}");
            }
            where.Unique("the tensor", entry.Tensors.Select(tensor => tensor.Name));
            where.Unique("the input", entry.Tensors.Select(tensor => tensor.Input));
            where.Unique("the output", entry.Tensors.Select(tensor => tensor.Output));
        }
    }
}
