"""How the relay imports: nothing that it does not use, and in one go.

requests-cache imports the driver of every database, and the library of every format, that is
installed. That takes longer than all the rest of a start, and memory in each worker. And what an
import makes stays: there is no garbage to look for among it.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DRIVERS = ("redis", "pymongo", "gridfs", "bson", "boto3", "botocore")
"""The modules of drivers that requests-cache tries to import."""

FORMATS = ("itsdangerous", "msgpack", "orjson", "tomlkit", "ujson", "yaml")
"""Those of formats: the relay has its own (`stores.record`)."""


@contextmanager
def quick_imports() -> Iterator[None]:
    """While the block runs, the import of a driver or a format that is not imported yet fails, as
    if it were not installed, and cycles are not collected.

    requests-cache does without them then. Its modules for a database can be imported later: they
    were not imported, and are not remembered as missing. Not for use beside other threads that
    import.
    """
    missing = [name for name in (*DRIVERS, *FORMATS) if name not in sys.modules]
    for name in missing:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's mark for "no"
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        for name in missing:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]
