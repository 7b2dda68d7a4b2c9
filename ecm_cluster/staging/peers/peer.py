"""Another node, as seen from here: how to reach it, what it has, and whether it is worth waiting for.

What goes wrong with it ends here: it is told as "not from there", and as a node that has gone where it happens again.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from ...base.reading import Number, Text, Unreadable, check, open_regular, parse_json
from ...pack.manifest import PackedFile
from . import wire
from .wire import Kind

PATIENCE = 30.0  # seconds without any progress of a node after which it is not waited for
LOOK = 0.5  # seconds between two looks at what another node has
STRIKES = 3  # failures, with no success between them, after which a node is never asked again
CONTACT = {"addresses": [Text(longest=255)], "port": Number(1, 65535), "token": Text("[0-9a-f]{64}")}
BITS = Text("[0-9a-f]+", 1 << 20)
APART = 0.5  # seconds: failures closer than this are one, as they come to several threads at once


class Peer:
    """Another node, as seen from here. A thread finds it, and looks at what it has from time to time.

    Attributes:
        met: It has answered once.
        gone: It has failed too often, and is not asked any more.
        done: It asks for nothing any more.
    """

    def __init__(self, contact: Path, digest: str) -> None:
        self._contact, self._digest = contact, digest
        self.met = self.gone = self.done = False
        self._guard = threading.Lock()
        self._way: tuple[str, int, bytes] | None = None
        self._links: list[wire.Link] = []  # that nobody uses at the moment
        self._has: dict[str, int] = {}  # file -> a bit for each block
        self._held, self._moved = -1, time.monotonic()
        self._strikes, self._struck = 0, 0.0
        self._end = threading.Event()
        try:
            threading.Thread(target=self._look, name="stage-look", daemon=True).start()
        except RuntimeError:  # the limit of processes
            self.gone = True

    def makes_progress(self) -> bool:
        """Whether it did something not long ago."""
        return time.monotonic() - self._moved < PATIENCE

    def may_ask(self) -> bool:
        """Whether it may still want something."""
        return not (self.gone or self.done) and self.makes_progress()

    def has(self, name: str, block: int) -> bool:
        """Whether it had a block when it was last looked at."""
        return not self.gone and bool(self._has.get(name, 0) >> block & 1)

    def get(self, file: PackedFile, block: int, buffer: memoryview, wait: float) -> Kind | None:
        """Fill the buffer with a block, if the answer is :attr:`Kind.HERE`; None where it fails to answer.

        Wrong bytes are :attr:`Kind.NEVER`: they would be wrong again.
        """
        with self._guard:
            kept = self._links.pop() if self._links else None
        if kept is not None:
            try:
                return self._get(kept, file, block, buffer, wait)
            except OSError:
                pass  # the other side may have ended it long ago
        try:
            return self._get(self._connect(), file, block, buffer, wait)
        except OSError:
            self._strike()
            return None

    def _get(self, link: wire.Link, file: PackedFile, block: int, buffer: memoryview, wait: float) -> Kind:
        import xxhash

        found = xxhash.xxh3_64()
        try:
            answer = self._note(link.ask(wire.GET, wait, file.name, block))
            if answer.kind is Kind.HERE:
                if answer.length != buffer.nbytes:
                    raise ConnectionError("a block of another length")
                link.receive(buffer, found.update)
        except BaseException:
            link.close()
            raise
        self._keep(link)
        if answer.kind is Kind.HERE and found.intdigest() != file.blocks[block]:
            self._strike()
            return Kind.NEVER
        self._strikes = 0
        return answer.kind

    def _connect(self) -> wire.Link:
        if self._way is None or self.gone:
            raise ConnectionError("it cannot be reached")
        return wire.Link(*self._way, self._digest)

    def _keep(self, link: wire.Link) -> None:
        with self._guard:
            if not self._end.is_set():
                self._links.append(link)
                return
        link.close()

    def _note(self, answer: wire.Answer) -> wire.Answer:
        if answer.held > self._held:
            self._held, self._moved = answer.held, time.monotonic()
        self.done = self.done or answer.done
        return answer

    def _strike(self) -> None:
        with self._guard:
            if time.monotonic() - self._struck >= APART:
                self._strikes, self._struck = self._strikes + 1, time.monotonic()
            self.gone = self.gone or self._strikes >= STRIKES

    def _look(self) -> None:
        """Find the node, and look at what it has until this node is closed or the other has gone."""
        link, record = None, None
        while not self.gone and not self._end.wait(0.05 if link is None else LOOK):
            try:
                record = record or self._read_contact()
                if record is not None:
                    link = link or self._meet(record)
                    self._look_at(link)
            except (OSError, Unreadable):
                if link is not None:
                    link.close()
                link = None
                self._strike()
                self._end.wait(LOOK)
        if link is not None:
            link.close()

    def _read_contact(self) -> dict[str, Any] | None:
        # listing the folder makes an NFS client look for new names; a bare open may trust a stale "no such file"
        os.listdir(self._contact.parent)
        try:
            handle = open_regular(self._contact, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as file:
            if os.fstat(handle).st_uid != os.geteuid():  # somebody else may have put it there
                raise Unreadable(self._contact, "", "not a file of this user")
            return check(parse_json(file.read(wire.MAP_LIMIT), self._contact), CONTACT, self._contact)

    def _meet(self, record: dict[str, Any]) -> wire.Link:
        port, token = record["port"], bytes.fromhex(record["token"])
        link, address = wire.reach(record["addresses"], port, token, self._digest)
        self._way = (address, port, token)
        return link

    def _look_at(self, link: wire.Link) -> None:
        answer = self._note(link.ask(wire.MAP))
        if answer.kind is not Kind.HERE or answer.length > wire.MAP_LIMIT:
            raise ConnectionError("no overview")
        text = bytearray(answer.length)
        link.receive(memoryview(text))
        told = check(parse_json(bytes(text), "overview"), {str: BITS}, "overview")
        self._has = {name: int(bits, 16) for name, bits in told.items()}
        self.met = True

    def close(self) -> None:
        """Look no more, and hang up."""
        self._end.set()
        with self._guard:
            links, self._links = self._links, []
        for link in links:
            link.close()
