"""What the relay gives to `serving`: an answer, or word that the request has to wait.

How each kind of answer is made is in `answering`. Nothing here knows a connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable, NamedTuple

from api_relaying_server.http1.message import Fields
from api_relaying_server.http1.rendering import Buffer, Content, pieces_of
from api_relaying_server.relaying.shared_body import Reader
from api_relaying_server.relaying.unheard import Elsewhere


class Answer(NamedTuple):
    """An answer to one request.

    `fields` are all fields but those of the connection. The body is `body`, or what `stream` gives
    piece by piece. `upstream_status` is the status that the upstream answered this request with,
    None where it was not asked or gave no answer.

    The one who sends it owns `stream`, and must call `close` in every case.
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

    def finish_unsent(self, elsewhere: Elsewhere | None = None) -> None:
        """The client gets no body; it is still fetched where it is to be stored. Where that takes
        time a thread `elsewhere` does it, if that is given.
        """
        if self.stream is not None:
            self.stream.finish(elsewhere)

    def close(self) -> None:
        """The client has it, or is gone."""
        if self.stream is not None:
            self.stream.close()


class Waiting(NamedTuple):
    """In place of an answer: a fetch is under way that may answer this request too.

    `on_done` takes a function and calls it once, from any thread, when that fetch is over; at once
    where it is over already. `deadline` is until when to wait, in seconds of `time.monotonic`. Then
    the request is to be answered from memory, or else given to the relay again with this as its
    caller's `ticket`. `give_up` is to be called where that never happens, as the client has left.
    `is_own` tells that the fetch is made for this client: memory may not have all of its answer.
    `place` is a note of the relay.
    """

    on_done: Callable[[Callable[[], None]], None]
    deadline: float
    give_up: Callable[[], None] = lambda: None
    place: object = None
    is_own: bool = False
