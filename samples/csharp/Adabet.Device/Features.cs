using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime;

namespace Adabet.Device
{
    /// <summary>The inputs of training steps: computed once for each sample and stored, or again for each
    /// batch.</summary>
    internal sealed class Features : IDisposable
    {
        private readonly Entry entry;
        private readonly DataSet data;
        private readonly Bag bag = new Bag();
        private readonly Graph frozen;              // null if nothing is computed, or everything is stored
        private readonly Feed[] frozenFeeds;
        private readonly Port[] computed;
        private readonly Dictionary<string, Column> columns = new Dictionary<string, Column>(StringComparer.Ordinal);

        /// <param name="atOnce">maximum number of samples per run of the frozen graph</param>
        /// <param name="keep">compute all samples now</param>
        public Features(Runtime runtime, Description about, Entry entry, DataSet data, int atOnce, bool keep, RunStop stop)
        {
            this.entry = entry;
            this.data = data;
            computed = entry.Boundary.Where(port => port.Input == null).ToArray<Port>();
            foreach (var port in entry.Boundary.Where(port => port.Input != null))
                columns[port.Name] = new Column(port, data.Inputs.First(column => column.Port.Name == port.Input).Data);
            if (computed.Length == 0) return;
            try
            {
                frozen = bag.Add(runtime.Open(entry.Frozen, about.Inputs, computed));
                int most = Math.Min(about.ForwardBatch ?? atOnce, data.Count);
                frozenFeeds = about.Inputs.Select(port => bag.Add(new Feed(port, most))).ToArray();
                AtOnce = most;
                if (!keep) return;
                Keep(stop);
                bag.Dispose();
                frozen = null;
            }
            catch
            {
                bag.Dispose();
                throw;
            }
        }

        private int AtOnce { get; }

        private void Keep(RunStop stop)
        {
            var blocks = new List<Block>();
            try
            {
                foreach (var port in computed)
                    blocks.Add(new Block((long)data.Count * port.RowBytes, $"the features of {data.Count} samples"));
                Compute(DocumentedRandom.Counted(data.Count), 0, data.Count, blocks, stop);
            }
            finally
            {
                foreach (var block in blocks) block.Dispose();
            }
            for (int i = 0; i < computed.Length; i++) columns[computed[i].Name] = new Column(computed[i], blocks[i].Bytes);
        }

        /// <summary>Run the frozen graph on samples, in batches, and write the results to the rows of blocks.</summary>
        private void Compute(int[] order, int first, int count, IReadOnlyList<Block> to, RunStop stop)
        {
            for (int done = 0; done < count; done += AtOnce)
            {
                stop.Token.ThrowIfCancellationRequested();
                int some = Math.Min(AtOnce, count - done);
                for (int i = 0; i < frozenFeeds.Length; i++) data.Inputs[i].Fill(frozenFeeds[i], order, first + done, some);
                using (var tensors = new Bag())
                {
                    var outputs = computed.Select((port, i) =>
                        tensors.Add(to[i].Tensor(port.Type, Feed.ShapeOf(port, some), (long)done * port.RowBytes))).ToArray();
                    frozen.Run(frozenFeeds.Select(feed => feed.Tensor(some)).ToArray(), outputs, stop);
                }
            }
        }

        /// <summary>Fill a batch; feeds are in the order of the entry's boundary.</summary>
        public void Fill(IReadOnlyList<Feed> feeds, int[] order, int first, int count, RunStop stop)
        {
            var open = new List<Block>();
            for (int i = 0; i < entry.Boundary.Count; i++)
            {
                if (columns.TryGetValue(entry.Boundary[i].Name, out Column column)) column.Fill(feeds[i], order, first, count);
                else open.Add(feeds[i].Block);
            }
            if (open.Count > 0) Compute(order, first, count, open, stop);
        }

        public void Dispose()
        {
            bag.Dispose();
        }
    }

    /// <summary>Memory for a batch: features in the order of the boundary, then labels.</summary>
    internal sealed class Batch : IDisposable
    {
        private readonly Feed[] feeds;
        private readonly DataSet data;
        private readonly Features features;

        public Batch(Entry entry, DataSet data, Features features, int size)
        {
            this.data = data;
            this.features = features;
            Size = Math.Min(size, data.Count);
            feeds = entry.Boundary.Concat(new[] { data.Labels.Port }).Select(port => new Feed(port, Size)).ToArray();
        }

        public int Size { get; }

        public Feed LabelsFeed => feeds[feeds.Length - 1];

        /// <summary>The tensors of some samples.</summary>
        public IEnumerable<OrtValue> Fill(int[] order, int first, int count, RunStop stop)
        {
            features.Fill(feeds, order, first, count, stop);
            data.Labels.Fill(LabelsFeed, order, first, count);
            return feeds.Select(feed => feed.Tensor(count));
        }

        public void Dispose()
        {
            foreach (var feed in feeds) feed.Dispose();
        }
    }
}
