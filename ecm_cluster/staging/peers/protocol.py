"""What nodes say to each other: HTTP/1.1, with a signature in each request line and in each answer.

Both sides prove that they know the serving node's token and the pack's digest, by HMAC over a fresh nonce. A bearer
token would be shorter, but would be sent to any process that listens on the port of a node that has died. Blocks are
not encrypted: shared storage serves them in the clear, too.

::

    GET /NONCE/SIGNATURE/WAIT/BLOCK/FILE   200 and the block, 503 (not here after WAIT s), or 404 (it never will be)
"""

from __future__ import annotations

import hmac
import re
import secrets

HELD, PROOF = "Held", "Proof"  # headers of an answer: how many blocks the node has, and its signature
HERE, LATER, NEVER = 200, 503, 404  # statuses
WAIT = 1  # seconds for which a node puts off an answer until the block is there

_REQUEST_LINE = re.compile(rb"GET /([0-9a-f]{32})/([0-9a-f]{64})/([!-~]{0,4096}) HTTP/1\.1\r\n")


class Secret:
    """The token of one node's server, for one pack.

    Args:
        token: Hexadecimal digits, from a file that only the owner of the job can read.
        digest: The pack's; a node that copies another pack is not answered.
    """

    def __init__(self, token: str, digest: str) -> None:
        self._token, self._digest = token.encode(), digest

    def request(self, query: str) -> tuple[str, str]:
        """(nonce, path) of a new request."""
        nonce = secrets.token_hex(16)
        return nonce, f"/{nonce}/{self._sign('request', nonce, query)}/{query}"

    def verified(self, line: bytes) -> tuple[str, str] | None:
        """(nonce, query) of a request line; None where it was not signed with this secret."""
        found = _REQUEST_LINE.fullmatch(line)
        nonce, signature, query = (part.decode() for part in found.groups()) if found else ("", "", "")
        return (nonce, query) if hmac.compare_digest(signature, self._sign("request", nonce, query)) else None

    def proof(self, nonce: str, status: int, held: str) -> str:
        """What an answer to the request with this nonce carries."""
        return self._sign("answer", nonce, str(int(status)), held)

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._token, "\n".join((self._digest, *parts)).encode(), "sha256").hexdigest()
