"""What goes to a client, before it is bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable, NamedTuple

from api_relaying_server.http1.message import Fields
from api_relaying_server.http1.rendering import Buffer, Content, pieces_of
from api_relaying_server.relaying.flight import Reader


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


class Waiting(NamedTuple):
    """In place of an answer: another request's fetch is under way, which may answer this one too.

    `on_done` takes a function that is called once, from any thread, when that fetch is over: at
    once where it is. `deadline` is when it is no longer waited for, in seconds of
    `time.monotonic`. Then, or when it is over, the request is asked again, with this as its
    caller's `ticket`, unless it can be answered from memory. `give_up` is called where it never
    will be, since its client has left. `is_own` tells that the fetch is made for this client: its
    answer is then more than what is in memory of it. `place` is the relay's own note.
    """

    on_done: Callable[[Callable[[], None]], None]
    deadline: float
    give_up: Callable[[], None] = lambda: None
    place: object = None
    is_own: bool = False
