"""Which files of a folder are code that is copied into a run, and why others are not."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import UserError

MODULE_SUFFIXES = (".py", ".so")
LEFT_OUT = ("__pycache__", "node_modules", ".pyc", ".egg-info", "~")  # and what begins with a dot
# of the user's folder: far more than modules take, far less than a folder that holds data or checkpoints by mistake
MAX_FILE, MAX_BYTES, MAX_FILES = 5 << 20, 200 << 20, 5000


@dataclass
class Selection:
    """What is going to be copied: (source, path below the target), and what is not.

    Not ``shutil.copytree(ignore=…)``: that gives the copied folders the modes of the originals (of a read-only checkout
    they could be neither filled by several threads nor deleted), and has no answer to links that lead in a circle.
    """

    target: Path
    ours: set[str]
    items: list[tuple[Path, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    size: int = 0

    def add_tree(self, root: Path, into: str, user: bool = False) -> None:
        """Plan to copy each file, symbolic links followed."""
        left_out = {}
        for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
            for name in [n for n in (*folders, *names) if not n.startswith(".") and not n.endswith(LEFT_OUT)]:
                path = Path(folder, name)
                if reason := self._why_not(path, user):
                    left_out[path] = reason
                elif name in names:
                    self.items.append((path, (Path(into) / path.relative_to(root)).as_posix()))
                    self.size += path.stat().st_size
            folders[:] = [n for n in folders if not n.startswith(".") and not n.endswith(LEFT_OUT)
                          and Path(folder, n) not in left_out]
            if user and (len(self.items) > MAX_FILES or self.size > MAX_BYTES):
                raise UserError(f"--code {root}: holds more than {MAX_FILES} files or {MAX_BYTES >> 20} MB; "
                                "use a folder that contains only the modules")
        self.left_out += [f"{path}: {reason}" for path, reason in sorted(left_out.items())]

    def _why_not(self, path: Path, user: bool) -> str:
        """Why a file or folder is not copied, "" if it is."""
        try:
            status = path.stat()
        except PermissionError as error:
            raise unreadable(path, error) from None
        except OSError as error:
            return f"a link to nowhere ({error.strerror})"
        if stat.S_ISREG(status.st_mode):
            large = user and status.st_size > MAX_FILE and path.suffix not in MODULE_SUFFIXES
            return f"{status.st_size >> 20} MB, and not a module" if large else ""
        if not stat.S_ISDIR(status.st_mode):
            return "neither a file nor a directory"
        if any(os.path.samestat(above.stat(), status) for above in path.parents):
            return "a link to a directory above it"
        return self._why_foreign(path) if user else ""

    def _why_foreign(self, folder: Path) -> str:
        """Why a folder within the user's does not hold the user's modules, "" if it may."""
        inside = names_in(folder)
        if folder.resolve() == self.target.parent.resolve():
            return "the run itself"
        if inside & self.ours or any((folder / self.target.name / name).is_dir() for name in self.ours):
            return "another run or checkout"
        if "pyvenv.cfg" in inside:
            return "a virtual environment"
        if folder.is_symlink() and not any(name.endswith(MODULE_SUFFIXES) for name in inside):
            return "a link to a directory without modules"  # such as data -> /datasets/coco
        return ""


def names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise unreadable(folder, error) from None


def _raise(error: OSError) -> None:
    raise unreadable(Path(error.filename), error) from None


def unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}), so the code cannot be copied into the run; "
                     "make it readable, or move it elsewhere")
