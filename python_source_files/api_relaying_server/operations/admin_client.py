"""Asks the admin address of a running relay, over HTTP.

What comes back is another program's word: no more than LARGEST of it is read, and what is not the
answer of an admin address is said to be none.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from typing import Any, Callable
from urllib.parse import quote, urlsplit

ANSWER_WITHIN = 10.0
"""Seconds for each piece of an answer; the admin address takes 5 at most."""

LARGEST = 16 * 1024 * 1024
"""Bytes of an answer that are read."""

JSON = "application/json"

Json = dict[str, Any]


class NoAdmin(Exception):
    """No admin address answers there, or it answers with an error: in one sentence."""


class AdminClient:
    """Asks the admin address at `url`; `token` is what it wants, empty for none."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        self._token = token

    def status(self) -> Json:
        """The numbers of the whole relay. Raises NoAdmin, as all calls here do."""
        return self._ask("GET", "/api/status")

    def explain(self, path: str, fields: list[str]) -> Json:
        """What a GET of `path` with these `fields` ("Name: value") would get now, and why."""
        query = "".join(f"&header={quote(field, safe='')}" for field in fields)
        return self._ask("GET", f"/api/explain?path={quote(path, safe='')}{query}")

    def purge(self, what: Json) -> int:
        """How many targets `what`, the body of the call, has purged."""
        purged = self._ask("POST", "/api/purge", what).get("purged")
        if not isinstance(purged, int):
            raise NoAdmin(f"{self.url} does not say how much it purged: is it an admin address?")
        return purged

    def _ask(self, method: str, target: str, body: Json | None = None) -> Json:
        try:
            status, reason, content = self._exchange(method, target, body)
        except ssl.SSLError as error:
            raise NoAdmin(f"no secure connection to {self.url} ({error.reason})") from None
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAdmin(
                f"no relay answers at {self.url} ({why}); --admin names another"
            ) from None
        answer = _object(content)
        if status == http.client.UNAUTHORIZED:
            raise NoAdmin(f"{self.url} wants another token: give --token or RELAY_ADMIN_TOKEN")
        if status != http.client.OK:
            raise NoAdmin(f"{self.url} answers {status} {_why(answer) or reason}".rstrip())
        if answer is None:
            raise NoAdmin(f"what answers at {self.url} is not the admin address of a relay")
        return answer

    def _exchange(self, method: str, target: str, body: Json | None) -> tuple[int, str, bytes]:
        parts = urlsplit(self.url)
        made: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            made = http.client.HTTPSConnection
        fields = {"Accept": JSON}
        if self._token:
            fields["Authorization"] = f"Bearer {self._token}"
        content = None
        if body is not None:
            content, fields["Content-Type"] = json.dumps(body).encode(), JSON
        with contextlib.closing(
            made(parts.hostname or "", parts.port, timeout=ANSWER_WITHIN)
        ) as to:
            to.request(method, parts.path + target, content, fields)
            answer = to.getresponse()
            return answer.status, answer.reason, answer.read(LARGEST)


def _object(content: bytes) -> Json | None:
    """The JSON object that an answer is, None where it is something else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _why(problem: Json | None) -> str:
    """What a problem document says (RFC 9457)."""
    told = (problem or {}).get("detail") or (problem or {}).get("title")
    return told if isinstance(told, str) else ""
