"""`python -m api_relaying_server`."""

from __future__ import annotations

import sys

from api_relaying_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
