"""One call in one place: carried out in a mount namespace of its own, twice, and what came of it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import users
from users import ROOT

from .calls import Call
from .places import Place

SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """What one call said and did; a negative code is the signal that ended it."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Case:
    """Both calls, and the files that exist after each: paths, without those that existed before."""

    call: Call
    place: Place
    bad: Outcome
    after: Outcome | None
    new: list[str]
    new_after: list[str]


def locales(folder: Path) -> Path:
    """A folder with a Latin-1 locale, which few systems have installed."""
    made = folder / "locales" / "xx_XX.ISO-8859-1"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", made], check=False, capture_output=True)
    return made.parent


def carry_out(world: Path, call: Call, place: Place, again: bool = True) -> Case:
    """Call a verb in a bad place, and again where it works."""
    pipes = [os.pipe() for _ in range(7)]
    numbers = [write for _, write in pipes]
    script = _script(world, call, place, numbers, again)
    process = subprocess.Popen(["unshare", "--mount", "bash", "-c", script], pass_fds=numbers, cwd="/",
                               env=_environment(world), stdin=subprocess.DEVNULL, start_new_session=True)
    for write in numbers:
        os.close(write)
    texts = [""] * len(pipes)

    def read(number: int) -> None:
        with os.fdopen(pipes[number][0], "rb") as handle:
            texts[number] = handle.read().decode("utf-8", "backslashreplace")

    readers = [threading.Thread(target=read, args=(number,)) for number in range(len(pipes))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    process.wait(SECONDS)
    codes = [_code(word) for word in texts[4].split()]
    if not codes:
        raise RuntimeError(f"{call.name} at {place.name}: could not create the place: {texts[1]}")
    before, *rest = (set(part.split("\n")) for part in texts[5].split("\0")[:3])
    new = [sorted(one - before) for one in rest]
    after = Outcome(codes[1], texts[2], texts[3]) if len(codes) > 1 else None
    return Case(call, place, Outcome(codes[0], texts[0], texts[1]), after, new[0], new[1] if after else [])


def _code(word: str) -> int:
    return int(word) if int(word) < 128 or int(word) > 192 else 128 - int(word)


def _environment(world: Path) -> dict[str, str]:
    return {"PATH": f"{Path(sys.prefix, 'bin')}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1", "ECM_CLUSTER_CHECK": "none", "HOME": f"{world}/home",
            "TMPDIR": f"{world}/tmp", "LANG": "C.UTF-8"}


def _script(world: Path, call: Call, place: Place, numbers: list[int], again: bool) -> str:
    out, err, out2, err2, codes, listing, _ = numbers
    closing = " ".join(f"{number}>&-" for number in numbers)
    words = shlex.join([sys.executable, "-m", "ecm_cluster", *call.words])
    drop = f"setpriv --reuid {place.user} --regid {place.user} --clear-groups --inh-caps=-all --bounding-set=-all " \
           "--no-new-privs -- " if place.user else ""
    env = " ".join(f"{name}={value}" for name, value in place.env.items())
    become = f"exec {drop}bash -c 'ulimit -c 0; {{limits}}\nexec \"$@\"' bash {words}"

    def subshell(extra: str, limits: str, env: str, streams: str, to: tuple[int, int]) -> str:
        inner = become.replace("{limits}", limits)
        exports = f"export {env}\n" if env else ""
        return (f"( cd $W/work\n{extra}{exports}exec 1>&{to[0]} 2>&{to[1]} {closing}\n"
                f"( {inner} ) {streams}\n{'exit ${PIPESTATUS[0]}' if '|' in streams else 'exit $?'} )\n"
                f"echo $? >&{codes}\n{_listed(listing)}")

    return "\n".join([
        f"exec 2>&{err}", users._opening() if place.user else "",
        f"export W={shlex.quote(str(world))} LOCALES={shlex.quote(str(locales(world.parent)))}",
        "exec 99<$W", "mount -t tmpfs -o size=48m,mode=755 none $W", "cp -a /proc/self/fd/99/. $W/", "exec 99<&-",
        f"chown -R {place.user}:{place.user} $W", _listed(listing), place.breaking,
        subshell("", place.limits, env, place.streams, (out, err)), place.healing,
        subshell("", "", "", "", (out2, err2)) if again else ""])


def _listed(listing: int) -> str:
    return f"( cd $W && find . -not -path ./ballast -printf '%P %y %s\\n' >&{listing}; printf '\\0' >&{listing} )"


def world_in(folder: Path | None = None) -> Path:
    """A folder for the world that every user can reach."""
    made = Path(tempfile.mkdtemp(prefix="ecm-cluster-places-", dir=folder))
    made.chmod(0o755)
    return made / "world"
