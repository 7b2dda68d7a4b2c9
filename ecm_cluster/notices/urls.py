"""Where messages go: apprise URLs, of which only the name of the service is ever shown."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import UserError
from ..job.notify_options import is_masked, scheme

MISSING = "apprise is not installed; pip install 'ecm-cluster[notify]'"
# What apprise logs, debug lines included, if a message cannot have arrived. Anything else may have been a message that
# did arrive, and whose answer was lost.
NOT_ARRIVED = {
    r"Connection refused": "connection refused",
    r"NameResolutionError|Failed to resolve|Name or service not known|getaddrinfo failed|"
    r"Temporary failure in name resolution|No address associated": "unknown host",
    r"ConnectTimeout|connect timeout=": "no connection within the time limit",
    r"No route to host|Network is unreachable": "no route to the host",
    r"Failed to establish a new connection|ProxyError|Cannot connect to proxy": "no connection",
    r"CERTIFICATE_VERIFY_FAILED": "the server's certificate is not valid",
    r"SMTPAuthenticationError|\(535,": "the server refused the password",
}
REFUSED = re.compile(r"\berror=([0-9]{3})\b")  # how apprise logs the status that a server answered
GATEWAY = ("502", "504")  # from a proxy that does not know what the server behind it did


@dataclass(frozen=True)
class Outcome:
    """What became of one message.

    Attributes:
        state: ``sent``; ``failed``: it did not arrive; ``unknown``: it may have.
    """

    state: str
    why: str = ""


def check(urls: Sequence[str], what: str = "notify") -> None:
    """Check at submission that messages can be sent to these URLs; no server is asked.

    Raises:
        UserError: apprise is not installed, or does not know such a service.
    """
    for number, url in enumerate(urls, 1):
        if is_masked(url):
            raise UserError(f"{what}: URL {number} is from the record of a run, which does not hold it; write it again")
        _service(url, f"{what}: URL {number}")


def _service(url: str, what: str) -> Any:
    try:
        with warnings.catch_warnings(), _listening():
            warnings.simplefilter("ignore")
            import apprise
            from apprise.manager_plugins import NotificationManager

            made = apprise.Apprise.instantiate(url)
            known = made is not None or scheme(url) in NotificationManager()
    except ImportError:
        raise UserError(f"{what}: {MISSING}") from None
    if made is None and not known:
        raise UserError(f"{what}: apprise has no service {scheme(url)}; see its list of services")
    if made is None:
        raise UserError(f"{what}: not a valid URL for {scheme(url)}; see apprise's page about that service (the text "
                        "is not repeated here, as it may be a secret)")
    return made


def send(url: str, title: str, body: str) -> Outcome:
    """Send one message to one URL."""
    try:
        service = _service(url, "notify")
    except UserError as error:
        return Outcome("failed", str(error))
    with _listening() as said:
        try:
            if service.notify(body=body, title=title):
                return Outcome("sent")
        except Exception as error:  # of a plugin; its text may contain the URL
            said.append(f"{type(error).__name__}: {error}")
    return _outcome("\n".join(said))


def _outcome(said: str) -> Outcome:
    """What apprise's own log, which contains secrets, says about a message that it could not send."""
    for pattern, words in NOT_ARRIVED.items():
        if re.search(pattern, said):
            return Outcome("failed", words)
    answered = REFUSED.search(said)
    if answered and answered[1] not in GATEWAY:
        return Outcome("failed", f"the server answered {answered[1]}")
    return Outcome("unknown", "the connection was lost before the server answered")


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """Keep what apprise logs from every other log, and yield it."""
    said: list[str] = []

    class _Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, handler = logging.getLogger("apprise"), _Kept()
    before = logger.level, logger.propagate, logger.handlers
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        logger.propagate, logger.handlers = before[1], before[2]
        logger.setLevel(before[0])
