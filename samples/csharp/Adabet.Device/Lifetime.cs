using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;

namespace Adabet.Device
{
    /// <summary>Runs work on a background thread; its exceptions become DeviceExceptions.</summary>
    internal static class Background
    {
        public static Task<T> Run<T>(string doing, CancellationToken token, Func<T> work)
        {
            return Task.Factory.StartNew(() =>
            {
                try
                {
                    return work();
                }
                catch (Exception error)
                {
                    Exception known = DeviceException.From(error, doing);
                    if (known == error) throw;
                    throw known;
                }
            }, token, TaskCreationOptions.LongRunning | TaskCreationOptions.DenyChildAttach, TaskScheduler.Default);
        }
    }

    /// <summary>Cancels running operations when their owner is disposed of, and frees resources when the last has
    /// ended.</summary>
    internal sealed class Lifetime : IDisposable
    {
        private readonly object gate = new object();
        private readonly CancellationTokenSource closing = new CancellationTokenSource();
        private readonly List<IDisposable> things = new List<IDisposable>();
        private int running;
        private bool closed;

        /// <summary>Register an object to be freed in the end.</summary>
        public T Add<T>(T thing) where T : IDisposable
        {
            lock (gate) things.Add(thing);
            return thing;
        }

        /// <summary>Whether it has been disposed of.</summary>
        public void Remove(IDisposable thing)
        {
            lock (gate) things.Remove(thing);
        }

        public async Task<T> Run<T>(string doing, CancellationToken token, Func<CancellationToken, T> work)
        {
            lock (gate)
            {
                if (closed) throw new ObjectDisposedException(null, $"It was disposed of before {doing}.");
                running++;
            }
            try
            {
                using (var both = CancellationTokenSource.CreateLinkedTokenSource(token, closing.Token))
                {
                    CancellationToken inner = both.Token;
                    return await Background.Run(doing, inner, () => work(inner)).ConfigureAwait(false);
                }
            }
            finally
            {
                Left();
            }
        }

        private void Left()
        {
            lock (gate)
                if (--running > 0 || !closed) return;
            Free();
        }

        public void Dispose()
        {
            bool idle;
            lock (gate)
            {
                if (closed) return;
                closed = true;
                idle = running == 0;
            }
            closing.Cancel();
            if (idle) Free();
        }

        private void Free()
        {
            foreach (var thing in things.ToArray()) thing.Dispose();
        }
    }
}
