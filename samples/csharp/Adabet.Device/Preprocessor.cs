using System;
using System.Collections.Generic;
using System.Linq;

namespace Adabet.Device
{
    /// <summary>Converts raw numbers to the form of the model's input.</summary>
    internal static class Preprocessor
    {
        /// <summary>Each operation is rounded to float32, as in adabet-onnx.</summary>
        public static float[] Fed(float[] raw, Port port, Preprocessing rule)
        {
            if (raw == null) throw new ArgumentNullException(nameof(raw));
            long sample = DType.Product(port.Shape);
            if (raw.Length % sample != 0)
                throw new DeviceException(DeviceError.WrongShape,
                    $"There are {raw.Length} numbers, a sample of {Json.Shown(port.Name)} has {sample}.");
            var fed = (float[])raw.Clone();
            if (rule == null || port.Dtype != "float32") return fed;
            if (rule.ChannelAxis >= port.Shape.Count)
                throw new DeviceException(DeviceError.WrongFile,
                    $"device.json: channel_axis is {rule.ChannelAxis}, {Json.Shown(port.Name)} has {port.Shape.Count} dimensions.");
            int channels = rule.ChannelAxis == null ? 1 : (int)port.Shape[rule.ChannelAxis.Value];
            int inner = rule.ChannelAxis == null ? (int)sample : (int)DType.Product(port.Shape.Skip(rule.ChannelAxis.Value + 1));
            float scale = (float)rule.Scale;
            float[] mean = Spread(rule.Mean, channels, "mean"), std = Spread(rule.Std, channels, "std");
            for (int i = 0; i < fed.Length; i++)
            {
                int channel = i / inner % channels;
                int from = rule.Bgr && channels == 3 ? i + (2 - 2 * channel) * inner : i;
                float scaled = raw[from] * scale, centred = scaled - mean[channel];
                fed[i] = centred / std[channel];
            }
            return fed;
        }

        private static float[] Spread(IReadOnlyList<double> numbers, int channels, string key)
        {
            if (numbers.Count != 1 && numbers.Count != channels)
                throw new DeviceException(DeviceError.WrongFile,
                    $"device.json: {key} of preprocessing has {numbers.Count} numbers, expected 1 or {channels}.");
            return Enumerable.Range(0, channels).Select(c => (float)numbers[numbers.Count == 1 ? 0 : c]).ToArray();
        }
    }
}
