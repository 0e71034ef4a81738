"""What goes to a client, before it is bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from api_relaying_server.http1.content import Buffer, Content, pieces_of
from api_relaying_server.http1.message import Fields
from api_relaying_server.tiers.flight import Reader


class Answer(NamedTuple):
    """An answer to one request.

    `fields` are all fields but those of the connection; the body is `body`, or what `stream` gives
    piece by piece, whose length `Content-Length` tells where it is known. `upstream_status` is
    what the upstream said this time, None where it was not asked or said nothing.
    """

    status: int
    reason: str
    fields: Fields
    body: Content = b""
    stream: Reader | None = None
    upstream_status: int | None = None

    def pieces(self) -> Iterable[Buffer]:
        """The body, piece by piece. Raises UpstreamError where it is cut."""
        return self.stream if self.stream is not None else pieces_of(self.body)

    def finish_unsent(self) -> None:
        """The client gets no body; what is stored of it is fetched all the same."""
        if self.stream is not None:
            self.stream.finish()

    def close(self) -> None:
        """The client has it, or is gone."""
        if self.stream is not None:
            self.stream.close()
