"""Content that is sent as it lies in memory: pieces of other content, none of them copied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Union

Buffer = Union[bytes, memoryview]


class Slices:
    """Several buffers, one behind the other. Its length is in bytes; `bytes` of it is a copy."""

    __slots__ = ("_length", "pieces")

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self.pieces: tuple[Buffer, ...] = tuple(pieces)
        self._length = sum(map(len, self.pieces))

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


Content = Union[bytes, Slices]


def pieces_of(content: Content) -> tuple[Buffer, ...]:
    """The buffers that are to be sent for this content."""
    return content.pieces if isinstance(content, Slices) else (content,)
