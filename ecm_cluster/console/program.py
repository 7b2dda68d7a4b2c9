"""What holds for a program from its first line to its exit: open streams, Ctrl-C, exceptions that nobody caught.

Loaded before everything else (see the package itself), so that an error in any later import is one line, too. It
imports only modules that the interpreter or argparse loads anyway.
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

TRACEBACK = "ECM_CLUSTER_TRACEBACK"  # 1: an unexpected error shows its traceback in place of keeping it in a file
LONGEST = 1600  # characters of an error; what is longer holds somebody's data
SAME_KEY = 1.0  # seconds in which a second Ctrl-C is that of an impatient user, and what is being undone is undone
ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}

REMEDIES = {
    errno.ENOSPC: "free some space there, or name another place",
    errno.EDQUOT: "your quota is used up there; free some, or name another place",
    errno.EFBIG: "the limit for the size of files is reached (ulimit -f)",
    errno.EROFS: "name a place that can be written to",
    errno.EACCES: "ask its owner for access, or name another place",
    errno.EPERM: "ask its owner for access, or name another place",
    errno.EMFILE: "the limit for open files is too low here (ulimit -n)",
    errno.ENFILE: "this machine has too many open files; try again later, or on another one",
    errno.EAGAIN: "the limit for processes and threads is reached (ulimit -u)",
    errno.ENOMEM: "too little memory is free here (ulimit -v, or the machine itself)",
    errno.ESTALE: "the file system has changed beneath it; give the command again",
    errno.EIO: "the storage reports an error; give the command again, or ask its administrator",
}

working = False  # a verb is at work, and an interrupt has to undo what it began; otherwise nothing is lost by dying
_interrupted = 0.0


# ---------------------------------------------------------------------------------------------- beginning


def begin() -> None:
    """Prepare this process as a program; for others, as for worker processes, call nothing of this."""
    sys.excepthook = _excepthook
    sys.unraisablehook = _unraisable
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL, None):
        signal.signal(signal.SIGINT, interrupt)
    _open_standard_streams()


def _open_standard_streams() -> None:
    """Stand /dev/null in for streams that the caller has closed, or the next file opened would get their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (open to the end)


def is_verb() -> bool:
    """Whether this process was started as a verb, and not as one of the programs that run on nodes."""
    program = sys.argv[0] if sys.argv else ""
    return (os.path.basename(program) in ("-m", "ecm-cluster")
            or os.path.dirname(os.path.abspath(program)) == os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


# ---------------------------------------------------------------------------------------------- signals


def interrupt(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C does (and SIGTERM, SIGHUP): nothing to undo before and after a verb's work, else an exception.

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
    """End at once, as a program does that has no handler for the signal, with a line that says so."""
    os.write(2, f"{ENDINGS[signal.Signals(number)]}\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def working_as_a_verb() -> None:
    """SIGTERM and SIGHUP end it as Ctrl-C does, unless its caller ignores them (nohup); threads fail in a line."""
    import threading

    def failed(of: threading.ExceptHookArgs) -> None:
        if of.exc_value is not None:
            report(of.exc_value)

    threading.excepthook = failed
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, interrupt)


def over() -> None:
    """A verb has done all it had to: what is left is the interpreter's, and has nothing to interrupt."""
    if signal.getsignal(signal.SIGINT) is interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unraisable(raised: Any) -> None:
    """What was raised where Python can only ignore it, as in a destructor: an interrupt comes again."""
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
    """The text of an error without line breaks, and not longer than a user reads."""
    words = " ".join(str(text).split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST // 2]} ... {words[-LONGEST // 4:]}"


def report(error: BaseException) -> None:
    """Say in one line what went wrong, where nothing was prepared for it; the traceback goes to a file.

    With ``ECM_CLUSTER_TRACEBACK=1`` it is shown instead.
    """
    try:
        line, kept = describe(error), _kept(error)
    except Exception:  # an exception that cannot be shown, no memory
        line, kept = type(error).__name__, "no traceback could be kept"
    try:
        sys.stderr.write(printable(f"error: {line} ({kept})\n"))
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def describe(error: BaseException) -> str:
    """What went wrong, and what helps."""
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
        return f"{text}; a package that is needed is missing or damaged"
    return f"unexpected {type(error).__name__}{f': {text}' if text else ''}"


def _describe_os(error: OSError) -> str:
    remedy = REMEDIES.get(error.errno or 0)
    paths = [os.fsdecode(p) if isinstance(p, (str, bytes)) else str(p)
             for p in (error.filename, error.filename2) if p is not None]
    if error.errno == errno.ENOENT and not paths:
        try:
            os.getcwd()
        except OSError:
            return "the working directory does not exist any more; change to one that does"
    what = error.strerror or str(error) or type(error).__name__
    return one_line(": ".join([" -> ".join(paths), what] if paths else [what]) + (f"; {remedy}" if remedy else ""))


def _kept(error: BaseException) -> str:
    """Keep the traceback, without values of variables, in a new file of this user alone; says where."""
    import traceback

    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if os.environ.get(TRACEBACK):
        sys.stderr.write(trace)
        return "its traceback is above"
    try:
        import tempfile

        number, path = tempfile.mkstemp(prefix="ecm-cluster-traceback-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as handle:
            handle.write(f"Python {sys.version}\n{trace}")
    except OSError:
        return f"its traceback could not be kept; {TRACEBACK}=1 shows it"
    return f"traceback: {path}"


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception before a verb handles its own, as while modules are imported."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    elif is_verb():
        report(error)
    else:
        sys.__excepthook__(kind, error, trace)
