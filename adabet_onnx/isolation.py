"""A watched process for the command line, so that a crash inside a native library is reported like any other error.

onnx and onnxruntime are native code, and a file can make them fail without an exception: a segmentation fault, an
abort, a system out of memory. Known causes are rejected earlier (`model/limits.py`); unknown ones end the process. So
the command forks once, early: the child does the work, and the parent waits, forwards signals, and if the child is
killed reports what it was doing, with exit code 1. This covers every command and every native call. On the same busy
two cores a fork took 15 to 35 ms, whereas a new process for opening a model would need 3.6 s of processor time for its
imports alone, for each command. The parent has imported almost nothing and keeps 5 MB that it does not share.

Only Linux forks safely after numpy has started its threads; elsewhere, and with ADABET_DEBUG (for debuggers), nothing
is watched. Neither is a call from Python, where the process belongs to the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Iterator

_BYTES = 2000  # size of the note
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl
_activities: list[str] = []
_note: mmap.mmap | None = None


@contextlib.contextmanager
def during(activity: str) -> Iterator[None]:
    """Record the current activity, such as ``opening model.onnx``, for the message if the process is killed.

    Nested activities are appended.
    """
    _activities.append(activity)
    _write()
    try:
        yield
    finally:
        _activities.pop()
        _write()


def _write() -> None:
    if _note is not None:
        text = ": ".join(_activities).encode(errors="replace")[: _BYTES - 1]
        _note[: len(text) + 1] = text + b"\0"


def watch() -> None:
    """Continue in a child process; the parent ends the same way as the child.

    Returns only in the child (or where nothing is watched). The parent exits with the child's exit code; with 1, after
    a message on stderr, if the child was killed by a fault or for lack of memory; or by the same signal if the child
    was ended by another one.
    """
    global _note
    if sys.platform != "linux" or os.environ.get("ADABET_DEBUG"):
        return
    forwarded = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, as some launchers leave it, waiting would fail
    note = mmap.mmap(-1, _BYTES)
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*forwarded, signal.SIGCHLD})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about numpy's threads, which survive a fork
            child = os.fork()
    except OSError:  # no process or memory available: continue unwatched
        child = 0
    if child == 0:
        _note = note
        if os.getpid() != parent:
            _die_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    code = _wait(child, forwarded)
    if code >= 0:
        sys.exit(code)
    text = bytes(note).split(b"\0")[0].decode(errors="replace")
    message = explain(-code, text or "working")
    if message is not None:
        print(f"Error: {message}", file=sys.stderr)
        sys.exit(1)
    signal.signal(-code, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.kill(parent, -code)


def explain(number: int, activity: str) -> str | None:
    """Return a message about a process that a signal has killed.

    Args:
        number: the signal.
        activity: what the process was doing, as after "while".

    Returns:
        The message; None if the signal was sent on purpose.
    """
    name = (signal.strsignal(number) or "").lower().split(" (")[0]
    if number == signal.SIGKILL:
        return (
            f"killed (signal {number}) while {activity}, as the system does when memory runs out. Free some memory, or "
            "give a smaller --batch-size, less --scoring-memory, or a smaller model."
        )
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS):
        return (
            f"a native library crashed (signal {number}, {name}) while {activity}. The file is damaged or malicious, "
            "or triggers a bug in onnx or onnxruntime: export the model again, with another exporter or opset, or "
            "update both packages (adabet-onnx doctor lists their versions). If that does not help, report it with the "
            "model."
        )
    return None


def _wait(child: int, forwarded: set[signal.Signals]) -> int:
    """Forward signals until the child ends; return its exit code, or minus the signal that killed it."""
    while True:
        info = signal.sigwaitinfo({*forwarded, signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code <= 0:  # sent by a process; a terminal sends signals to the child too
                os.kill(child, info.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent is killed and can no longer forward signals."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)
