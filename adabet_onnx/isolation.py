"""The command line in a process that is watched, so that a crash inside a native library is an error like any other.

onnx and onnxruntime are native code, and a file can make them fail where no exception is raised: a segmentation fault,
an abort, a system out of memory. What is known to do that is refused before (`model/limits.py`); what is not known ends
the process. So the command forks once, early: the child does the work, and the parent waits, passes signals on, and if
the child is killed says what it was doing, with exit code 1. That holds for every command and every native call. On the
same busy two cores a fork took 15 to 35 ms, and a process that starts anew to open a model 3.6 s of processor time for
its imports alone, for each command. The parent has imported next to nothing and keeps 5 MB that it does not share.

Only Linux forks safely after numpy has started its threads; elsewhere, and with ADABET_DEBUG (for debuggers), nothing
is watched. Nor is it in Python, where a process belongs to who calls: there a crash is a crash.
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

_BYTES = 2000  # of the note
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl
_doing: list[str] = []
_note: mmap.mmap | None = None


@contextlib.contextmanager
def during(what: str) -> Iterator[None]:
    """Note what is done inside, for what is said if the process dies of it: ``opening model.onnx``.

    Notes inside notes come behind them.
    """
    _doing.append(what)
    _write()
    try:
        yield
    finally:
        _doing.pop()
        _write()


def _write() -> None:
    if _note is not None:
        text = ": ".join(_doing).encode(errors="replace")[: _BYTES - 1]
        _note[: len(text) + 1] = text + b"\0"


def watch() -> None:
    """Go on in a child process; the parent ends as the child does.

    Returns in the child alone (or where nothing is watched). In the parent it exits: with the child's exit code; with
    1, after a message on stderr, if the child was killed by a fault or for lack of memory; by the same signal if it
    was ended by another one.
    """
    global _note
    if sys.platform != "linux" or os.environ.get("ADABET_DEBUG"):
        return
    passed = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some launchers leave it, nobody could be waited for
    note = mmap.mmap(-1, _BYTES)
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*passed, signal.SIGCHLD})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of numpy's threads, which are made for it
            child = os.fork()
    except OSError:  # no process or memory to be had: unwatched, then
        child = 0
    if child == 0:
        _note = note
        if os.getpid() != parent:
            _die_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    code = _wait(child, passed)
    if code >= 0:
        sys.exit(code)
    text = bytes(note).split(b"\0")[0].decode(errors="replace")
    said = explain(-code, text or "working")
    if said is not None:
        print(f"Error: {said}", file=sys.stderr)
        sys.exit(1)
    signal.signal(-code, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.kill(parent, -code)


def explain(number: int, what: str) -> str | None:
    """What to say of a process that a signal has killed.

    Args:
        number: the signal.
        what: it was doing, as after "while".

    Returns:
        A message; None if the signal was somebody's wish.
    """
    name = (signal.strsignal(number) or "").lower().split(" (")[0]
    if number == signal.SIGKILL:
        return (
            f"killed (signal {number}) while {what}, as the system does when memory runs out. Free some memory, or "
            "give a smaller --batch-size, less --scoring-memory, or a smaller model."
        )
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS):
        return (
            f"a native library crashed (signal {number}, {name}) while {what}. The file is damaged or made to do "
            "harm, or meets a fault in onnx or onnxruntime: export the model again, with another exporter or opset, or "
            "update both (adabet-onnx doctor says which are there). If it goes on, report it with the model."
        )
    return None


def _wait(child: int, passed: set[signal.Signals]) -> int:
    """Pass signals on until the child ends; its exit code, or minus the signal that killed it."""
    while True:
        found = signal.sigwaitinfo({*passed, signal.SIGCHLD})
        if found.si_signo != signal.SIGCHLD:
            if found.si_code <= 0:  # sent by a process; what a terminal sends, the child has got as well
                os.kill(child, found.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent is killed, who can then pass nothing on."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)
