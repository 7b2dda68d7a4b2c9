"""The ``notify:`` key of a job: which messages about a run are sent, where, and by whom."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import UserError, one_of, shown
from ..base.units import SET, is_control
from .option import TEXT, Reader

EVENTS = ("done", "stopped", "failed", "preempted", "commits-fail")
VERB, JOB = SENDERS = ("verb", "job")
KEYS = ("urls", "events", "from", "partition")
EXPECTED = "a list of apprise URLs, or a block {urls, events, from, partition}"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://\S+")
MOST_URLS, LONGEST_URL = 20, 4000


@dataclass(frozen=True)
class Notify:
    """The key with its defaults.

    Attributes:
        urls: Where messages go; in a record without their content, which is a secret.
        events: What is reported, of :data:`EVENTS`.
        by_job: Whether a short job sends what is due at the end of a run; the next command of its owner always does.
        partition: Of that job; None: that of the run's.
    """

    urls: tuple[str, ...] = ()
    events: tuple[str, ...] = EVENTS
    by_job: bool = False
    partition: str | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Notify:
        """From the value of the key, which may come from a record."""
        return cls(tuple(map(str, value.get("urls") or ())), tuple(map(str, value.get("events") or EVENTS)),
                   value.get("from") == JOB, value.get("partition"))


def scheme(url: str) -> str:
    """All that is shown of a URL: ``slack``, ``mailto``; the rest holds passwords and tokens."""
    return url.partition("://")[0].lower()


def masked(value: Mapping[str, Any]) -> dict[str, Any]:
    """The key as others may see it."""
    return {**value, "urls": [f"{scheme(url)}://{SET}" for url in value["urls"]]} if value.get("urls") else dict(value)


def is_masked(url: str) -> bool:
    return url.endswith(f"://{SET}")


def _read(given: Any) -> dict[str, Any]:
    block = {"urls": given} if isinstance(given, list) else given
    if not isinstance(block, Mapping):
        raise UserError(f"invalid value of type {type(given).__name__}; expected {EXPECTED}")
    for key in block:
        if key not in KEYS:
            raise one_of("key", key, KEYS)
    if "urls" in block:
        _check_urls(block["urls"])
    events = block.get("events", list(EVENTS))
    if not isinstance(events, list) or not events:
        raise UserError(f"events: invalid value {shown(events)}; expected a list of {', '.join(EVENTS)}")
    for event in events:
        if event not in EVENTS:
            raise one_of("events", event, EVENTS)
    if block.get("from", VERB) not in SENDERS:
        raise one_of("from", block["from"], SENDERS)
    if block.get("partition") is not None and not _is_text(block["partition"]):
        raise UserError(f"partition: invalid value {shown(block['partition'])}; expected {TEXT.expected}")
    return dict(block)


def _check_urls(urls: Any) -> None:
    """Whether they have the form of URLs; no message repeats one."""
    if not isinstance(urls, list) or len(urls) > MOST_URLS:
        raise UserError(f"urls: expected a list of at most {MOST_URLS} apprise URLs, such as mailto://USER:PASSWORD@HOST")
    for number, url in enumerate(urls, 1):
        if not isinstance(url, str) or not SCHEME.fullmatch(url) or len(url) > LONGEST_URL or any(map(is_control, url)):
            raise UserError(f"urls: URL {number} is not of the form SERVICE://…; see apprise's list of services (its "
                            "text is not repeated here, as it may be a secret)")


def _is_text(value: Any) -> bool:
    try:
        return bool(TEXT.read(value))
    except ValueError:
        return False


NOTIFY = Reader(EXPECTED, _read)
