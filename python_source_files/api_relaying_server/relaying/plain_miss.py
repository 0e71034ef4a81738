"""The usual miss in one step: a plain GET of what is not stored, whose response is for everybody
and has come whole with its head.

It takes the steps of a `Transfer` in the leader's thread, with half of the calls, and gives what
that gives: `Receiver.usual` judges the response by the same gate, and where it does not know, a
`Transfer` goes on with what has come. `tests/test_plain_miss.py` compares the two.

Budget: what it costs beside sending, judging and keeping is some twenty calls of functions. What is
not asked about each miss is not asked here.
"""

from __future__ import annotations

import logging
from copy import copy

from api_relaying_server.caching.plain import is_plain
from api_relaying_server.caching.reuse import MISSING
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.errors import UpstreamError
from api_relaying_server.http1.fields import fetched_fields
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.fetching import Query, Received
from api_relaying_server.relaying.keeping import Keeper
from api_relaying_server.relaying.transfer import (
    NOT_SHARED,
    Begun,
    Leader,
    Outcome,
    SharedResponse,
    Tools,
    Transfer,
    UpstreamFailed,
)

_log = logging.getLogger(Transfer.__module__)  # a transfer would write to it


def is_plain_miss(query: Query, lead: Leader) -> bool:
    """True where nothing is stored, no other process is to be asked, and nothing is logged of it
    (at debug).
    """
    return (
        query.ask is MISSING
        and is_plain(query.request)
        and not lead.lease_name
        and not _log.isEnabledFor(logging.DEBUG)
    )


def fetch_plainly(tools: Tools, query: Query, lead: Leader) -> Answer:
    """The answer to the leader of such a miss, as `Transfer.run` gives it. Raises UpstreamError."""
    fetcher, receiver, flight, _ = tools
    keeper = fetcher.keeper
    _, flight_key, landing, seen, _ = lead
    if landing is None or seen is None or keeper.changed_since(lead.key, seen, False) is not None:
        return Transfer(tools, query, lead).run()
    outcome: Outcome = NOT_SHARED
    try:
        sent = flight.number()  # who has a smaller one came before this request is sent
        received = fetcher.send(query)  # the connection is ours
        try:
            usual = receiver.usual(received)
            if usual is None:
                transfer, begun = Transfer(tools, query, lead), Begun(received, sent)
        except BaseException:
            received.fetch.exchange.close()
            raise
        if usual is None:
            landing = None  # from here on it is the transfer's, and so is the connection
            return transfer.run(begun=begun)
        stored, until = usual
        _keep(keeper, received, stored, until, lead)
        if flight.leave_if_unfollowed(flight_key, landing):
            landing = None
        else:
            outcome = SharedResponse(stored, None, stored.body, received.began, sent)
        fields = received.head.fields.followed_by(fetched_fields(query.ask.reason, 200, ""))
        return Answer(200, stored.reason, fields, stored.body, None, 200)
    except UpstreamError as error:
        outcome = UpstreamFailed(copy(error), ())  # a plain request has no credentials
        raise
    finally:
        if landing is not None and not flight.leave_if_unfollowed(flight_key, landing):
            landing.deliver(outcome)
            flight.leave(flight_key, landing)


def _keep(
    keeper: Keeper, received: Received, stored: StoredResponse, until: float, lead: Leader
) -> None:
    """Stores a response, and remembers what has become of it."""
    request, _, _, began = received
    unstored = "fault"
    try:
        record = keeper.add(request, stored, began, lead.seen, until)
        unstored = "" if record is not None else "invalidated"
    except Exception:  # what cannot be stored is answered all the same
        _log.exception("an answer could not be stored")
    if unstored:
        keeper.unstored.note(lead.key, unstored, keeper.clock())
    else:
        keeper.unstored.forget(lead.key)
    keeper.facts.mark_shared(lead.flight_key)
