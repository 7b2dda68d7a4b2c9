"""Draw what a verb shows on a terminal as an SVG for the README: ``python tools/picture.py OUT.svg VERB [ARGS…]``.

It is real output on a real pseudo-terminal, drawn by rich; nothing is fetched to show it. A verb that does not end,
such as ``status --watch``, is interrupted after SECONDS from the environment; the last frame counts, from the line
that begins with SINCE.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = int(os.environ.get("COLUMNS", "96"))
SECONDS = float(os.environ.get("SECONDS", "900"))
SINCE = os.environ.get("SINCE", "")  # begin with the line that begins so
LEAVES = ("\x1b[?25l", "\x1b[?25h")  # hides and shows the cursor
# fonts that rich's picture would fetch from another host, and its comment
LEFT_OUT = re.compile(r"[ ]*@font-face \{\{.*?\}\}\n|[ ]*<!--.*?-->\n", re.DOTALL)


def shown(verb: str, *args: str) -> str:
    """What the terminal shows in the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen([sys.executable, "-m", f"ecm_cluster.{verb}", *args], stdin=theirs, stdout=theirs,
                               stderr=theirs, env={**os.environ, "TERM": "xterm-256color"})
    os.close(theirs)
    os.set_blocking(ours, False)
    said, end = b"", time.monotonic() + SECONDS
    while process.poll() is None:
        if time.monotonic() > end:
            process.send_signal(signal.SIGINT)
            end += 10
        said += _read(ours)
        time.sleep(0.1)
    said += _read(ours)
    frame = said.decode(errors="replace").split("\x1b[2K")[-1]
    for code in LEAVES:
        frame = frame.replace(code, "")
    frame = frame.replace("^C", "").replace("\r", "").strip("\n")
    return frame[frame.rindex(f"\n{SINCE}") + 1:] if SINCE else frame


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 1 << 20)
    except OSError:  # nothing yet, or the process has closed its side
        return b""


def main(out: str, verb: str, *args: str) -> None:
    from rich._export_format import CONSOLE_SVG_FORMAT

    command = "$ python -m ecm_cluster." + " ".join([verb, *(Path(a).name for a in args)])
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text(command, "bold"), Text.from_ansi(shown(verb, *args)), sep="\n", overflow="fold")
    Path(out).write_text(console.export_svg(title="ecm-cluster", code_format=LEFT_OUT.sub("", CONSOLE_SVG_FORMAT)))


if __name__ == "__main__":
    main(*sys.argv[1:])
