"""Files whose content is a setting's value: read when the settings are, and so again on SIGHUP."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple


class FileContent(NamedTuple):
    """A file as it was when it was read. No text about it shows what is in it."""

    path: str
    content: bytes

    def __repr__(self) -> str:
        return self.path


def read_file(path: str, most: int) -> FileContent:
    """A plain file of at most `most` bytes. Other files are refused: reading one may never end.
    ValueError says what is wrong with it.
    """
    content = None
    try:
        path = os.path.expanduser(path)
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                content = file.read(most + 1)
    except OSError as wrong:
        why = wrong.strerror or type(wrong).__name__
        raise ValueError(f"{path} cannot be read ({why})") from None
    except ValueError:  # a NUL in it
        raise ValueError("this is no name of a file") from None
    if content is None:
        raise ValueError(f"{path} is not a plain file")
    if not content.strip():
        raise ValueError(f"{path} is empty")
    if len(content) > most:
        raise ValueError(f"{path} is too large: at most {most} bytes can be of use")
    return FileContent(path, content)
