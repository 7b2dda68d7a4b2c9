"""The one process of a node that copies: finds out what is missing of a set, makes room, and copies it.

Everything here but :meth:`Copier.is_there` and :meth:`Copier.announce` runs under the set's copy lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..base import files
from ..base.disk import FULL, NoRoom
from ..base.errors import Failed
from ..base.units import size_text
from ..pack.manifest import Pack, PackedFile, checksum
from .leases import CopyLock, Progress
from .scratch import MARGIN, Scratch
from .streams import ReadError, Stream, Task, in_parallel, write_all

if TYPE_CHECKING:
    from .peers.peer_group import PeerGroup  # http.server takes 30 ms, for the few jobs that have peers


class Copier:
    """Copies ``wanted`` files of a pack into its set.

    Attributes:
        total: Bytes wanted.
        copied: Bytes copied into new files.
        repaired: Bytes copied into existing files that were wrong.
    """

    def __init__(self, pack: Pack, wanted: list[PackedFile], scratch: Scratch, peers: PeerGroup | None, threads: int,
                 memory_limit: int | None, trust: bool, on_progress: Callable[[int, int, str], None]) -> None:
        self.pack, self.wanted, self.scratch, self.peers = pack, wanted, scratch, peers
        self.threads, self.memory_limit, self.trust, self.on_progress = threads, memory_limit, trust, on_progress
        self.folder = scratch.set_folder(pack.digest)
        self.lock = CopyLock(self.folder.copy_lock)
        self.total = sum(f.size for f in wanted)
        self.copied = self.repaired = 0
        self._guard = threading.Lock()  # of the counters, and of what is missing
        self._manifest_guard = threading.Lock()  # another one: an fsync may take seconds while much is written
        self._missing: dict[PackedFile, set[int]] = {}  # of each file that is not complete
        self._was_there: set[PackedFile] = set()  # those of them that had their names at the start
        self._whole: dict[str, list[int]] = {}  # the manifest
        self._done = self._promised = 0

    def is_there(self) -> bool:
        """Whether everything is there and untouched, by sizes and time stamps."""
        manifest = self.folder.manifest()
        return self.trust and all(self.folder.is_whole(file, manifest) for file in self.wanted)

    def announce(self) -> None:
        """Tell other nodes that everything is here."""
        if self.peers is not None:
            for file in self.wanted:
                self.peers.have(file, range(len(file.blocks)))
            self.peers.order([])

    def run(self) -> None:
        """Copy what is missing.

        Raises:
            NoRoom, Failed: As :func:`ecm_cluster.staging.copying.stage`.
        """
        try:
            steps = [self._find_missing, self._copy]
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
            raise Failed(f"scratch: could not write to {self.folder.path} ({error.strerror or error}); fix that, or "
                         "name another directory as scratch") from None

    def _find_missing(self) -> None:
        """Find out which files are complete; all other existing ones are read, regardless of any record."""
        self._missing, self._done = {}, 0  # it may be done a second time
        manifest = self.folder.manifest()
        self._whole = {name: stamp for name, stamp in manifest["files"].items() if self.folder.stamp(name) == stamp}
        doubtful: list[Task] = []
        for file in self.wanted:
            if self.trust and self.folder.is_whole(file, manifest):
                self._done += file.size
                if self.peers is not None:
                    self.peers.have(file, range(len(file.blocks)))
                continue
            self._missing[file] = set(range(len(file.blocks)))
            self.folder.clear_way(file.name)
            whole, partial = self.folder.file(file.name), self.folder.partial(file.name)
            if whole.exists():
                self._was_there.add(file)
                partial.unlink(missing_ok=True)
            if whole.exists() or partial.exists():
                doubtful += [(file, block) for block in range(len(file.blocks))]
        in_parallel(doubtful, self._check, self.threads, lambda: self._tick("checking"))
        self._reopen_what_is_wrong()

    def _check(self, task: Task, stream: Stream) -> None:
        file, block = task
        whole = self.folder.file(file.name)
        try:
            right = stream.carry(file, block, whole if whole.exists() else self.folder.partial(file.name))
        except ReadError:
            right = False
        if right:
            with self._guard:
                self._done += file.span(block)[1]
                self._missing[file].discard(block)
            if self.peers is not None:
                self.peers.have(file, (block,))

    def _reopen_what_is_wrong(self) -> None:
        """Files that are wrong somewhere, or too long, lose their names, but first their place in the manifest."""
        stamps = {f: self.folder.stamp(f.name) for f in self._missing}
        wrong = [f for f, stamp in stamps.items() if stamp and (self._missing[f] or stamp[0] != f.size)]
        for file in wrong:
            self._whole.pop(file.name, None)
        if wrong or self.folder.manifest()["pack"] != str(self.pack.path):
            self.folder.write_manifest(self.pack, self._whole)
        for file in wrong:
            self.folder.reopen(file)

    def _needed(self) -> int:
        """Bytes that will yet be taken from the disk."""
        needed = 0
        for file, blocks in self._missing.items():
            missing = sum(file.span(block)[1] for block in blocks)
            partial = self.folder.partial(file.name)
            held = partial.stat().st_blocks * 512 if partial.exists() else 0
            needed += min(missing, max(0, file.size - held))
        return needed

    def _copy(self) -> None:
        """Copy what is missing; called again, it resumes."""
        if not self._missing:
            return
        needed, disk = self._needed(), self.scratch.filesystem()
        if disk.in_memory and self.memory_limit is not None and needed > self.memory_limit:
            raise NoRoom(f"scratch: {self.scratch.base} is in memory ({disk.kind}): {size_text(needed)} are needed, "
                         f"and the job may take {size_text(self.memory_limit)} for it; ask for more memory, or name a "
                         "directory on a disk as scratch")
        self.scratch.make_room(needed, self.pack.digest, self.lock, Progress(self._done, self.total))
        self._promised = self._done + needed
        for file in [f for f, blocks in self._missing.items() if not blocks]:
            self._finish(file)
        tasks = [(file, block) for file, blocks in self._missing.items() for block in sorted(blocks)]
        if self.peers is not None:
            tasks = self.peers.order(tasks)
        in_parallel(tasks, self._copy_block, self.threads, lambda: self._tick("copying"))

    def _copy_block(self, task: Task, stream: Stream) -> None:
        file, block = task
        partial, length = self.folder.partial(file.name), file.span(block)[1]
        target = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not self._from_peer(file, block, stream, target):
                self._from_pack(file, block, stream, target)
        finally:
            os.close(target)
        files.kill_point("block-written", f"{partial}@{block}")
        if self.peers is not None:
            self.peers.have(file, (block,))
        with self._guard:
            self._done += length
            self.repaired += length if file in self._was_there else 0
            self.copied += length if file not in self._was_there else 0
            self._missing[file].discard(block)
            last = not self._missing[file]
        if last:
            self._finish(file)

    def _from_peer(self, file: PackedFile, block: int, stream: Stream, target: int) -> bool:
        offset, length = file.span(block)
        buffer = stream.buffer[:length]
        if self.peers is None or not self.peers.fetch(file, block, buffer) or checksum(buffer) != file.blocks[block]:
            return False
        write_all(target, buffer, offset)
        return True

    def _from_pack(self, file: PackedFile, block: int, stream: Stream, target: int) -> None:
        source = self.pack.path / file.name
        for _ in range(2):
            try:
                if stream.carry(file, block, source, target):
                    return
                problem = "has a wrong checksum, or is cut short"
                # the second time not from this node's memory
                os.posix_fadvise(stream.open(source), *file.span(block), os.POSIX_FADV_DONTNEED)
            except ReadError as error:
                problem = f"cannot be read ({error})"
            stream.close()
        raise Failed(f"pack: block {block} of {source} {problem}; see `python -m ecm_cluster.stage verify "
                     f"{self.pack.path}`")

    def _finish(self, file: PackedFile) -> None:
        """Give a file that is complete its name, and its place in the manifest."""
        if self.folder.stamp(file.name) is None:
            self.folder.finish(file)
        with self._manifest_guard:
            self._whole[file.name] = self.folder.stamp(file.name) or []
            self.folder.write_manifest(self.pack, self._whole)
        with self._guard:
            del self._missing[file]

    def _tick(self, what: str) -> None:
        self.on_progress(self._done, self.total, what)
        self.lock.write(Progress(self._done, self.total, max(0, self._promised - self._done)))
