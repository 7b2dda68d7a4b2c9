"""The process from its first line to its exit: standard streams, Ctrl-C, uncaught exceptions.

Loaded before everything else (see the package's ``__init__``), so that an error in any later import is one line, too.
It imports only modules that the interpreter or argparse loads anyway.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any

from .output import printable

TRACEBACK = "ECM_CLUSTER_TRACEBACK"  # 1: an unexpected error prints its traceback instead of writing it to a file
LONGEST = 1600  # characters of an error message; a longer one contains data
SAME_KEY = 1.0  # seconds in which a second Ctrl-C is ignored, so that it does not interrupt the cleanup
ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}

REMEDIES = {
    errno.ENOSPC: "free some space there, or use another directory",
    errno.EDQUOT: "your quota there is exhausted; free some space, or use another directory",
    errno.EFBIG: "the limit on file size is reached (ulimit -f)",
    errno.EROFS: "use a writable directory",
    errno.EACCES: "ask its owner for access, or use another path",
    errno.EPERM: "ask its owner for access, or use another path",
    errno.EMFILE: "the limit on open files is too low (ulimit -n)",
    errno.ENFILE: "this machine has too many open files; retry later or on another machine",
    errno.EAGAIN: "the limit on processes and threads is reached (ulimit -u)",
    errno.ENOMEM: "not enough memory (ulimit -v, or the machine itself)",
    errno.ESTALE: "the file was replaced on the server; run the command again",
    errno.EIO: "the storage reports an error; run the command again, or ask its administrator",
}

working = False  # a verb is running, so an interrupt must clean up; otherwise the process may just die
_interrupted = 0.0


# ---------------------------------------------------------------------------------------------- beginning


def begin() -> None:
    """Set up this process as a program; not used by worker processes."""
    sys.excepthook = _excepthook
    sys.unraisablehook = _unraisable
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL, None):
        signal.signal(signal.SIGINT, interrupt)
    _open_standard_streams()


def _open_standard_streams() -> None:
    """Open /dev/null for closed standard streams, as the next opened file would get their descriptor."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (open until the exit)


def is_verb() -> bool:
    """Whether this process was started as a verb, rather than as a program that runs on nodes."""
    program = sys.argv[0] if sys.argv else ""
    return (os.path.basename(program) in ("-m", "ecm-cluster")
            or os.path.dirname(os.path.abspath(program)) == os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


# ---------------------------------------------------------------------------------------------- signals


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C, SIGTERM and SIGHUP: raise in a verb's main, so that it cleans up; otherwise exit at once.

    Raises:
        KeyboardInterrupt: With the signal's number.
    """
    global _interrupted
    if not working and is_verb():
        die(number)
    if time.monotonic() - _interrupted < SAME_KEY:
        return
    _interrupted = time.monotonic()
    raise KeyboardInterrupt(number)


def die(number: int) -> None:
    """Print a line and die of the signal, as a program without a handler does."""
    os.write(2, f"{ENDINGS[signal.Signals(number)]}\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def working_as_a_verb() -> None:
    """Handle SIGTERM and SIGHUP like Ctrl-C, unless they are ignored (nohup); report errors of threads in one line."""
    import threading

    def failed(of: threading.ExceptHookArgs) -> None:
        if of.exc_value is not None:
            report(of.exc_value)

    threading.excepthook = failed
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, interrupt)


def over() -> None:
    """A verb has finished: ignore Ctrl-C, as an interrupted interpreter exit would only print a traceback."""
    if signal.getsignal(signal.SIGINT) is interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unraisable(raised: Any) -> None:
    """Handle an exception that Python must ignore, as in a destructor: an interrupt is sent again."""
    global _interrupted
    if not is_verb():
        sys.__unraisablehook__(raised)
    elif isinstance(raised.exc_value, KeyboardInterrupt):
        _interrupted = 0.0
        os.kill(os.getpid(), signal.SIGINT)
    elif raised.exc_value is not None and os.environ.get(TRACEBACK):
        sys.__unraisablehook__(raised)


# ---------------------------------------------------------------------------------------------- exceptions


def one_line(text: object) -> str:
    """The text of an error without line breaks, truncated to a readable length."""
    words = " ".join(str(text).split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST // 2]} ... {words[-LONGEST // 4:]}"


def report(error: BaseException) -> None:
    """Report an unexpected error in one line, and write its traceback to a file.

    With ``ECM_CLUSTER_TRACEBACK=1`` the traceback is printed instead.
    """
    try:
        line, kept = describe(error), _kept(error)
    except Exception:  # the exception cannot be formatted, or there is no memory
        line, kept = type(error).__name__, "the traceback could not be saved"
    try:
        sys.stderr.write(printable(f"error: {line} ({kept})\n"))
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def describe(error: BaseException) -> str:
    """What went wrong, and what to do about it."""
    if isinstance(error, OSError):
        return _describe_os(error)
    text = one_line(error)
    if isinstance(error, MemoryError):
        return f"out of memory{f': {text}' if text else ''}; {REMEDIES[errno.ENOMEM]}"
    if isinstance(error, RecursionError):
        return f"nested too deeply: {text}"
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return f"{text}; {REMEDIES[errno.EAGAIN]}"
    if isinstance(error, ImportError):
        return f"{text}; a required package is missing or damaged"
    return f"unexpected {type(error).__name__}{f': {text}' if text else ''}"


def _describe_os(error: OSError) -> str:
    remedy = REMEDIES.get(error.errno or 0)
    paths = [os.fsdecode(p) if isinstance(p, (str, bytes)) else str(p)
             for p in (error.filename, error.filename2) if p is not None]
    if error.errno == errno.ENOENT and not paths:
        try:
            os.getcwd()
        except OSError:
            return "the working directory no longer exists; change to an existing directory"
    what = error.strerror or str(error) or type(error).__name__
    return one_line(": ".join([" -> ".join(paths), what] if paths else [what]) + (f"; {remedy}" if remedy else ""))


def _kept(error: BaseException) -> str:
    """Write the traceback, without values of variables, to a new private file; returns where it is."""
    import traceback

    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if os.environ.get(TRACEBACK):
        sys.stderr.write(trace)
        return "traceback above"
    try:
        import tempfile

        number, path = tempfile.mkstemp(prefix="ecm-cluster-traceback-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as handle:
            handle.write(f"Python {sys.version}\n{trace}")
    except OSError:
        return f"the traceback could not be saved; {TRACEBACK}=1 prints it"
    return f"traceback: {path}"


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Handle an exception outside a verb's main, e.g. while modules are imported."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    elif is_verb():
        report(error)
    else:
        sys.__excepthook__(kind, error, trace)
