"""What is a bad answer."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from .case import Case
from .running import SECONDS, Answer

LINES = 6  # of an error
CHARACTERS = 3000  # of an error in all: a line of a megabyte does not count as an answer
MEMORY = 2 << 30  # resident bytes
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# what the verbs make of an exception that nothing was prepared for
LAST_RESORT = re.compile(r"error: (unexpected |nested too deeply|out of memory).*")
REFUSED_IN_A_DRY_RUN = "would be refused:"


def judge(case: Case, answer: Answer, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is bad about an answer; empty where it is good.

    Args:
        before: The case's folder as :func:`digest` sees it, before the verb ran.
        after: The same, afterwards.
    """
    bad = []
    out, err = (data.decode("utf-8", "surrogateescape") for data in (answer.out, answer.err))
    said = out + err
    if answer.code not in (0, 1, 2):
        bad.append(f"exit code {answer.code}")
    if "Traceback (most recent call last)" in said:
        bad.append("traceback: " + next((line for line in reversed(err.splitlines()) if line.strip()), "")[:160])
    elif match := LAST_RESORT.search(err):
        bad.append(f"nobody foresaw it: {match[0][:160]}")
    elif answer.code and (len(err.splitlines()) > LINES or len(err) > CHARACTERS):
        bad.append(f"an error of {len(err.splitlines())} lines, {len(err)} characters")
    elif answer.code and not said.strip():
        bad.append("no reason is given")
    bad += [f"raw {match[0]!r} in the output" for match in [CONTROLS.search(said)] if match]
    if any("\udc80" <= c <= "\udcff" for c in said):
        bad.append("bytes in the output that are not UTF-8")
    refused = answer.code in (1, 2) or REFUSED_IN_A_DRY_RUN in err
    if case.invalid and answer.code == 0 and not refused:
        bad.append("accepted in silence")
    if refused and not any(b.startswith(("traceback", "nobody")) for b in bad) and not names_what_is_wrong(case, said):
        bad.append("the error names neither file nor field")
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    # what a call that was killed has left half written may go
    changed = [name for name in changed if name in after or ".tmp-" not in name]
    if answer.code == 2 and changed:
        bad.append(f"written although refused: {', '.join(changed[:3])}")
    if (case.work / "executed").exists():
        bad.append("what a file holds was executed")
    if answer.left and not case.may_start:
        bad.append(f"left behind: {answer.left[0]}")
    if answer.seconds > SECONDS:
        bad.append(f"took {answer.seconds:.0f} s")
    if answer.memory > MEMORY:
        bad.append(f"took {answer.memory >> 20} MiB")
    return bad


def names_what_is_wrong(case: Case, said: str) -> bool:
    def plain(text: str) -> str:
        return re.sub(r"\s+", " ", text.replace("_", "-").lower())

    return any(plain(name) in plain(said) for name in case.names if name.strip())


def digest(folder: Path) -> dict[str, str]:
    """What each path below a folder is; times do not count."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.join(place, name)
            there = os.lstat(path)
            kind = stat.S_IFMT(there.st_mode)
            if kind == stat.S_IFREG and there.st_size < 1 << 20:
                with open(path, "rb") as handle:
                    content = hashlib.blake2b(handle.read(), digest_size=8).hexdigest()
            else:
                content = os.readlink(path) if kind == stat.S_IFLNK else str(there.st_ino * (kind == stat.S_IFREG))
            found[os.path.relpath(path, folder)] = f"{there.st_mode:o} {content}"
    return found
