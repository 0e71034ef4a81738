"""`python -m api_relaying_server`, and the command `api-relaying-server`."""

from __future__ import annotations

import sys

from api_relaying_server import early
from api_relaying_server.importing import quick_imports


def main() -> int:
    """Runs the command; signals count from here on, while all that it needs is still read."""
    early.begin()
    with quick_imports():
        from api_relaying_server.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
