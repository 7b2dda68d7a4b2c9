"""The reader of packs as a file client of mmcv: a pipeline that opens images needs one more argument, and no change."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from mmcv.fileio import BaseStorageBackend, FileClient

from .reader import PackedImages

NAME = "packed"


@lru_cache(maxsize=None)
def _images(pack: str, folder: str | None) -> PackedImages:
    return PackedImages.open(pack, folder)


@FileClient.register_backend(NAME, force=True)
class PackedBackend(BaseStorageBackend):
    """Reads images of a pack (or of ``folder``, its copy on this node) from it, and every other file from its path."""

    def __init__(self, pack: str, folder: str | None = None) -> None:
        self.images = _images(pack, folder)
        self._root = pack.rstrip("/") + "/"

    def get(self, filepath: Any) -> bytes:
        path = os.path.normpath(os.path.abspath(filepath))
        if path.startswith(self._root) and self.images.find(path) is not None:
            return self.images.get(path)
        with open(path, "rb") as handle:
            return handle.read()

    def get_text(self, filepath: Any, encoding: str = "utf-8") -> str:
        return self.get(filepath).decode(encoding)
