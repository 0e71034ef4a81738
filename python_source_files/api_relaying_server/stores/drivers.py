"""Leaving out the drivers of databases that are not used.

requests-cache imports the driver of every database for which one is installed, which takes longer
than all the rest of a start; and what is not imported takes no memory in any worker.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("redis", "pymongo", "gridfs", "bson", "boto3", "botocore")
"""The modules of drivers that requests-cache tries to import."""


@contextmanager
def left_out() -> Iterator[None]:
    """While the block runs an import of a driver that is not imported yet fails, as if it were not
    installed.

    requests-cache does without a driver then. Its modules for that database can be imported later:
    they were not imported, and are not remembered as missing. Not for use beside other threads that
    import.
    """
    missing = [name for name in NAMES if name not in sys.modules]
    for name in missing:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's mark for "no"
    try:
        yield
    finally:
        for name in missing:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]
