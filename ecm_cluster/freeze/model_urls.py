"""URLs of pretrained weights: which one a name stands for, whether its answer can be trusted, and that answer."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..base.errors import UserError
from ..base.units import without_secrets

TABLE = Path(__file__).with_name("model_urls.txt")
STALL_SECONDS = 60.0  # without a byte: a guess, as a user waits for it


@functools.lru_cache(maxsize=None)
def table(scheme: str) -> dict[str, str]:
    """The rows of one kind in ``model_urls.txt``: a URL for each name; of ``sha256``, the prefix of each file's."""
    rows = (line.split() for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {name: value for kind, name, value in rows if kind == scheme}


def file_name(url: str) -> str:
    """Last component of a URL's path, "" if that is not a file name."""
    try:
        name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    except ValueError:
        return ""
    return "" if name in (".", "..") or "\0" in name else name


def expected_digest(name: str) -> str:
    """What a published file's sha256 begins with by its name (``…-0676ba61.pth``); "" if it does not say."""
    known = table("sha256")
    if name in known:
        return known[name].strip("-")
    suffix = re.search(r"-([0-9a-f]{8,64})(\.[A-Za-z]\w*)+$", name)
    # eight digits can be a date: model-20210616.pth
    date = suffix and re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\d{6})?", suffix[1])
    return suffix[1] if suffix and not date else ""


def is_safe(url: str, begins: str) -> bool:
    """Whether what a URL answers can be trusted: encrypted, from this machine, or of a digest that ``begins`` so."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and (
        bool(begins) or parts.hostname in ("localhost", "127.0.0.1", "::1")))


def blocks(what: str, url: str, by_hand: str) -> Iterator[tuple[int | None, bytes]]:
    """(bytes in all or None, next block) of what a URL answers."""
    # imported here: 30 ms that --help and a dry run do not owe
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Redirects(HTTPRedirectHandler):
        def redirect_request(self, *given: Any) -> Any:
            if not is_safe(given[-1], expected_digest(file_name(url))):
                raise ValueError(f"it leads to {without_secrets(given[-1])}, which anybody on the way can change")
            return super().redirect_request(*given)

    try:
        # some hosts refuse Python's default name
        asked = Request(url, headers={"User-Agent": "ecm-cluster"})
        with build_opener(Redirects).open(asked, timeout=STALL_SECONDS) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise ValueError("the answer is a web page, perhaps a login")
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            yield total, b""
            while block := answer.read(1 << 20):
                yield total, block
            return
    except HTTPError as error:
        reason = f"{error.code} {error.reason}"
    except (OSError, HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", "") or error)
    raise UserError(f"{what} could not be downloaded ({reason}); {by_hand}")
