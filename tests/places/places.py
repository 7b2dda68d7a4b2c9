"""The places: what is wrong with each, in shell, and how it is made well again. ``$W`` is the world."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from users import ROOT, VICTIM

FILL = "cat /dev/zero > $W/ballast 2> /dev/null"
LEAVE = "truncate -s -{kib}K $W/ballast"
READ_ONLY = "mount -o remount,ro $W"
UTF8_OFF = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


@dataclass(frozen=True)
class Place:
    """Somewhere that a verb is called.

    Attributes:
        breaking: Shell lines before the call.
        healing: Shell lines after it; the same call follows again.
        limits: Shell lines in the process that becomes the verb.
        streams: Redirections of the verb.
        user: Who calls; 0 is root.
        writable: Whether what a verb writes in the world can be written.
        starts: Whether any program can be expected to start; False: one that cannot must say so in a line.
        silent: Standard output does not arrive.
        streams_lost: Standard output was wanted and could not be written.
    """

    name: str
    breaking: str = ""
    healing: str = ""
    limits: str = ""
    streams: str = ""
    env: dict[str, str] = field(default_factory=dict)
    user: int = 0
    writable: bool = True
    starts: bool = True
    silent: bool = False
    streams_lost: bool = False


def _full(kib: int) -> Place:
    lines = FILL + (f"\n{LEAVE.format(kib=kib)}" if kib else "")
    return Place(f"full-{kib}k" if kib else "full", lines, "rm $W/ballast", writable=False)


def _limit(letter: str, value: int, user: int = 0) -> Place:
    return Place(f"ulimit-{letter}-{value}", limits=f"ulimit -{letter} {value}", starts=False, user=user)


# the checkout may be there, too
NO_TMP = f"""exec 97<{shlex.quote(str(ROOT))} 98<$W
mount -t tmpfs none /tmp && mount -t tmpfs -o ro none /var/tmp
mkdir -p $W && mount -c --bind /proc/self/fd/98 $W
mkdir -p {shlex.quote(str(ROOT))} && mount -c --bind /proc/self/fd/97 {shlex.quote(str(ROOT))}
mount -o remount,ro /tmp"""
NO_HOME = "unset HOME XDG_CACHE_HOME XDG_CONFIG_HOME USER LOGNAME"
WELL = {0: Place("well"), VICTIM: Place("well-user", user=VICTIM)}  # by who calls
PLACES = [
    *WELL.values(),
    _full(0), _full(16), _full(256),
    Place("quota-0", limits="ulimit -f 0", writable=False),
    Place("quota-2k", limits="ulimit -f 2", writable=False),
    Place("quota-40k", limits="ulimit -f 40", writable=False),
    Place("read-only", READ_ONLY, "mount -o remount,rw $W", writable=False),
    Place("no-permission", "chown -R 0:0 $W; chmod -R go-w,o+rX $W", f"chown -R {VICTIM}:{VICTIM} $W", user=VICTIM,
          writable=False),
    Place("unreadable", "chown -R 0:0 $W; chmod 755 $W; chmod 700 $W/*", f"chown -R {VICTIM}:{VICTIM} $W", user=VICTIM,
          writable=False, starts=False),
    *[_limit("n", number) for number in (8, 10, 12, 16, 24, 40, 64)],
    *[_limit("v", kib) for kib in (40_000, 60_000, 100_000, 200_000, 400_000, 1_000_000)],
    *[_limit("u", number, VICTIM) for number in (1, 2, 3)],
    Place("no-home", limits=NO_HOME, user=VICTIM, starts=False),
    Place("home-gone", env={"HOME": "/nonexistent"}, user=VICTIM),
    Place("home-closed", "mkdir -p $W/closed; chown 0:0 $W/closed; chmod 700 $W/closed", env={"HOME": "$W/closed"},
          user=VICTIM, starts=False),
    Place("ascii", env=UTF8_OFF),
    Place("ascii-output", env={"PYTHONIOENCODING": "ascii"}),
    Place("latin-1", env={"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LOCPATH": "$LOCALES",
                          "LC_ALL": "xx_XX.ISO-8859-1"}),
    Place("directory-gone", limits="mkdir $W/gone && cd $W/gone && rmdir $W/gone", writable=False),
    Place("stdin-closed", streams="<&-"),
    Place("stdout-closed", streams=">&-", silent=True),
    Place("stderr-closed", streams="2>&-"),
    Place("all-closed", streams="<&- >&- 2>&-", silent=True),
    Place("stdout-full", streams="> /dev/full", silent=True, streams_lost=True),
    Place("stderr-full", streams="2> /dev/full"),
    Place("both-full", streams="> /dev/full 2> /dev/full", silent=True, streams_lost=True),
    Place("pipe-closed", streams="| true", silent=True),
    Place("pipe-closed-unbuffered", streams="| true", silent=True, env={"PYTHONUNBUFFERED": "1"}),
    Place("no-tmp", env={"TMPDIR": "/nonexistent"}),
    Place("tmp-read-only", "mkdir -p $W/t; mount -t tmpfs -o ro none $W/t", "umount $W/t", env={"TMPDIR": "$W/t"}),
    Place("no-tmp-anywhere", NO_TMP, env={"TMPDIR": "/nonexistent"}),
    Place("no-shm", "mount -t tmpfs -o ro none /dev/shm", "umount /dev/shm"),
    Place("no-proc", "mount -t tmpfs none /proc", "umount /proc"),
]
