"""Ask a relay that is starting up, until it answers."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

# Both are generous for two busy cores; neither is waited for when the answer comes earlier.
ANSWER_SECONDS = 30.0
PAUSE_SECONDS = 0.1


class CheckFailed(Exception):
    """Something that CI checks is not as it must be; the message says what."""


def check(condition: bool, otherwise: str) -> None:
    """Raise CheckFailed with the message unless the condition holds."""
    if not condition:
        raise CheckFailed(otherwise)


def restaurants_from(
    port: int, server: subprocess.Popen[bytes], within: float
) -> Mapping[str, str]:
    """Return the fields of the answer to /restaurant, asked again and again while none answers.

    Any status but 200, a body that lists no restaurant, a server that ends, or `within` seconds
    without an answer raise CheckFailed.
    """
    url = f"http://localhost:{port}/restaurant"
    # Nothing here may go through a proxy of the machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + within
    while True:
        try:
            with opener.open(url, timeout=ANSWER_SECONDS) as answer:
                check(bool(json.load(answer)["restaurants"]), f"{url} lists no restaurant")
                return dict(answer.headers.items())
        except urllib.error.HTTPError as error:
            raise CheckFailed(f"{url} answered {error.code} {error.reason}") from error
        except OSError as error:
            check(server.poll() is None, f"the command ended with {server.returncode}")
            check(time.monotonic() < deadline, f"{url}: {error} after {within:.0f} s")
        time.sleep(PAUSE_SECONDS)
