"""The one process of a node that copies: finds out what is missing of a set, makes room, and brings it.

Everything here but :meth:`Bringing.is_there` and :meth:`Bringing.announce` runs under the set's copy lock.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Tuple

from ..base import files
from ..base.disk import FULL, NoRoom
from ..base.errors import Failed
from ..base.reading import open_regular
from ..base.units import size_text
from ..pack.manifest import Pack, PackedFile, checksum
from .leases import CopyLock, Progress
from .scratch import MARGIN, Scratch
from .streams import ReadError, Stream, in_parallel, write_all

if TYPE_CHECKING:
    from .copying import Circle

Task = Tuple[PackedFile, int]  # a block


class Bringing:
    """Brings ``wanted`` files of a pack into its set. Attributes of use to the caller:

    Attributes:
        total: Bytes wanted.
        copied: Bytes copied into files that were not there.
        repaired: Bytes copied into files that were there, and wrong.
    """

    def __init__(self, pack: Pack, wanted: list[PackedFile], scratch: Scratch, circle: Circle | None, threads: int,
                 memory_limit: int | None, on_progress: Callable[[int, int, str], None]) -> None:
        self.pack, self.wanted, self.scratch, self.circle = pack, wanted, scratch, circle
        self.threads, self.memory_limit, self.on_progress = threads, memory_limit, on_progress
        self.folder = scratch.set_folder(pack.digest)
        self.lock = CopyLock(self.folder.copy_lock)
        self.total = sum(f.size for f in wanted)
        self.copied = self.repaired = 0
        self._guard = threading.Lock()  # of the counters, and of what is missing
        self._manifest_guard = threading.Lock()
        self._missing: dict[PackedFile, set[int]] = {}  # of each file that is not whole
        self._was_there: set[PackedFile] = set()  # those of them that lay there under their names
        self._announced: set[PackedFile] = set()
        self._whole: dict[str, list[int]] = {}  # the manifest
        self._reports: dict[str, set[int]] = {}
        self._done = self._promised = 0

    def is_there(self) -> bool:
        """Whether all is there and untouched, by sizes and time stamps."""
        manifest, damaged = self.folder.manifest(), self.folder.damaged()
        return all(self.folder.is_whole(f, manifest) and not damaged.get(f.name) for f in self.wanted)

    def announce(self) -> None:
        """Tell other nodes of what was found here."""
        if self.circle is not None:
            for file in self.wanted:
                if file not in self._announced:
                    self._have(file, range(len(file.blocks)), self.folder.file(file.name))

    def _have(self, file: PackedFile, blocks: Iterable[int], path: Path) -> None:
        if self.circle is not None:
            for block in blocks:
                self.circle.have(file, block, path)

    def run(self) -> None:
        """Bring what is missing.

        Raises:
            NoRoom, Failed: As :func:`ecm_cluster.staging.copying.stage`.
        """
        try:
            steps = [self._find_out, self._copy]
            while steps:
                try:
                    steps[0]()
                    del steps[0]
                except OSError as error:
                    # it looked free, but a quota or another program was in the way
                    if error.errno not in FULL:
                        raise
                    needed = max(MARGIN, self._needed())
                    if not self.scratch.collect(needed, keep=(self.pack.digest,)):
                        raise self.scratch.no_room(needed, self.pack.digest) from None
        except OSError as error:
            raise Failed(f"scratch: {self.folder.path} cannot be written ({error.strerror or error}); fix that, or "
                         "name another folder as scratch") from None

    def _find_out(self) -> None:
        """Tell what is whole, what is missing, and what has to be read to know."""
        self._missing, self._done = {}, 0  # it may be done a second time
        manifest, damaged = self.folder.manifest(), self.folder.damaged()
        self._whole = {name: stamp for name, stamp in manifest["files"].items() if self.folder.stamp(name) == stamp}
        self._reports = {f.name: damaged.get(f.name, set()) for f in self.wanted}
        doubtful: list[Task] = []
        for file in self.wanted:
            whole = self.folder.is_whole(file, manifest)
            if whole and not self._reports[file.name]:
                self._have(file, range(len(file.blocks)), self.folder.file(file.name))
                self._done += file.size
                continue
            self._missing[file] = set()
            blocks = self._reports[file.name] & set(range(len(file.blocks))) if whole else self._written(file)
            doubtful += [(file, block) for block in sorted(blocks)]
            if whole:
                self._done += file.size - sum(file.span(block)[1] for block in blocks)
            else:
                self._missing[file] = set(range(len(file.blocks))) - blocks
        self._announced = set(self.wanted)
        in_parallel(doubtful, self._check, min(self.threads, len(doubtful)), lambda: self._tick("checking"))
        self._reopen_what_is_wrong()

    def _written(self, file: PackedFile) -> set[int]:
        """Blocks of a file that is not known to be right, but for those that were never written."""
        self.folder.clear_way(file.name)
        if self.folder.stamp(file.name):
            self._was_there.add(file)
            self.folder.partial(file.name).unlink(missing_ok=True)
            return set(range(len(file.blocks)))
        try:
            handle = open_regular(self.folder.partial(file.name), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return set()
        found = set()
        with contextlib.suppress(OSError):  # ENXIO: nothing but a hole from here on
            for block in range(len(file.blocks)):
                offset, length = file.span(block)
                if os.lseek(handle, offset, os.SEEK_DATA) < offset + length:
                    found.add(block)
        os.close(handle)
        return found

    def _place(self, file: PackedFile) -> Path:
        name = file.name
        return self.folder.file(name) if self.folder.stamp(name) else self.folder.partial(name)

    def _check(self, task: Task, stream: Stream) -> None:
        file, block = task
        try:
            right = stream.carry(file, block, self._place(file))
        except ReadError:
            right = False
        with self._guard:
            if right:
                self._done += file.span(block)[1]
            else:
                self._missing[file].add(block)

    def _reopen_what_is_wrong(self) -> None:
        """Files that are wrong somewhere, or too long, lose their names, but first their place in the manifest."""
        stamps = {f: self.folder.stamp(f.name) for f in self._missing}
        wrong = [f for f, stamp in stamps.items() if stamp and (self._missing[f] or stamp[0] != f.size)]
        for file in wrong:
            self._whole.pop(file.name, None)
        if wrong or self.folder.manifest()["pack"] != str(self.pack.path):
            self.folder.write_manifest(self.pack, self._whole)
        for file in wrong:
            self._was_there.add(file)
            self.folder.reopen(file)
        for file, blocks in self._missing.items():
            self._have(file, set(range(len(file.blocks))) - blocks, self._place(file))

    def _needed(self) -> int:
        """Bytes that will yet be taken from the disk."""
        needed = 0
        for file, blocks in self._missing.items():
            missing = sum(file.span(block)[1] for block in blocks)
            with contextlib.suppress(FileNotFoundError):
                held = os.stat(self.folder.partial(file.name)).st_blocks * 512
                missing = min(missing, max(0, file.size - held))
            needed += missing
        return needed

    def _make_room(self) -> None:
        needed, held = self._needed(), self.scratch.filesystem()
        if held.in_memory and self.memory_limit is not None and needed > self.memory_limit:
            raise NoRoom(f"scratch: {self.scratch.base} lies in memory ({held.kind}): {size_text(needed)} are needed, "
                         f"and the job may take {size_text(self.memory_limit)} for it; ask for more memory, or name a "
                         "folder on a disk as scratch")
        self.scratch.make_room(needed, self.pack.digest, self.lock, Progress(self._done, self.total))
        self._promised = self._done + needed

    def _copy(self) -> None:
        """Bring what is missing; done again, it goes on where it was."""
        if not self._missing:
            return
        self._make_room()
        for file in [f for f, blocks in self._missing.items() if not blocks]:
            self._finish(file)
        tasks = [(file, block) for file, blocks in self._missing.items() for block in sorted(blocks)]
        if self.circle is not None:
            tasks = self.circle.order(tasks)
        in_parallel(tasks, self._bring, min(self.threads, len(tasks)), lambda: self._tick("copying"))

    def _bring(self, task: Task, stream: Stream) -> None:
        file, block = task
        partial = self.folder.partial(file.name)
        target = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not self._from_peer(file, block, stream, target):
                self._from_pack(file, block, stream, target)
        finally:
            os.close(target)
        files.kill_point("block-written", f"{partial}@{block}")
        self._have(file, (block,), partial)
        with self._guard:
            length = file.span(block)[1]
            self._done += length
            if file in self._was_there:
                self.repaired += length
            else:
                self.copied += length
            self._missing[file].discard(block)
            last = not self._missing[file]
        if last:
            self._finish(file)

    def _from_peer(self, file: PackedFile, block: int, stream: Stream, target: int) -> bool:
        if self.circle is None:
            return False
        offset, length = file.span(block)
        buffer = stream.buffer[:length]
        try:
            fetched = self.circle.fetch(file, block, buffer)
        except OSError:
            return False
        if not fetched or checksum(buffer) != file.blocks[block]:
            return False
        write_all(target, buffer, offset)
        return True

    def _from_pack(self, file: PackedFile, block: int, stream: Stream, target: int) -> None:
        source = self.pack.path / file.name
        for _ in range(2):
            try:
                if stream.carry(file, block, source, target):
                    return
                wrong = "has a wrong checksum, or is cut short"
                # the second time not from this node's memory
                os.posix_fadvise(stream.open(source), *file.span(block), os.POSIX_FADV_DONTNEED)
            except ReadError as error:
                wrong = f"cannot be read ({error})"
            stream.close()
        raise Failed(f"pack: block {block} of {source} {wrong}; see `python -m ecm_cluster.stage verify "
                        f"{self.pack.path}`")

    def _finish(self, file: PackedFile) -> None:
        """Give a file that is complete its name, and its place in the manifest."""
        name = file.name
        if self.folder.stamp(name) is None:
            self.folder.finish(file)
        with self._manifest_guard:
            self._whole[name] = self.folder.stamp(name) or []
            self.folder.write_manifest(self.pack, self._whole)
        self.folder.clear_damage(name, self._reports[name])
        with self._guard:
            del self._missing[file]
        if self.circle is not None:
            self.circle.moved(file, self.folder.file(name))

    def _tick(self, what: str) -> None:
        self.on_progress(self._done, self.total, what)
        self.lock.write(Progress(self._done, self.total, max(0, self._promised - self._done)))
