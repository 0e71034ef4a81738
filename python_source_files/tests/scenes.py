"""The small worlds that are played in every order, by what they are about."""

from __future__ import annotations

from tests.interleavings import Scene, Step
from tests.model import Asking, Rules, Told

TAG = '""'  # stands for the tag of the content

GET, HEAD, POST = (Step(Asking(method)) for method in ("GET", "HEAD", "POST"))
QUICK = Step(Asking(), at_once=True)
ALICE, BOB, CAROL = (
    Step(Asking(authorized="a" in who, cookie="c" in who, key="k" in who)) for who in "ack"
)
BOB_HEAD = Step(Asking("HEAD", cookie=True))
ONE, OTHER = (Step(Asking(vary={"Foo": value})) for value in "12")
PART = Step(Asking(range=(0, 3)))

HOUR = Told(said={"max-age": 3600})
NOW = Told(said={"max-age": 0})
TAGGED = Told(said={"max-age": 3600}, tag=TAG)
OLD = Told(said={"max-age": 0}, tag=TAG)
PRIVATE = Told(said={"private": None, "max-age": 3600}, tag=TAG)
COOKIE = Told(said={"max-age": 3600}, tag=TAG, cookie=True)
CHECKED = Told(said={"no-cache": None, "max-age": 3600}, tag=TAG)
SILENT = Told()
GUESS = Rules(default_ttl=300)

FOLLOWING = {
    "max-age": Scene(HOUR, ((GET,), (GET,), (GET,)), most_calls=1),
    "max-age=0": Scene(NOW, ((GET,), (GET,), (GET,)), most_calls=2),
    "in pieces": Scene(HOUR, ((GET,), (GET,)), in_pieces=True, most_calls=1),
    "in pieces, max-age=0": Scene(NOW, ((GET,), (GET,)), in_pieces=True, most_calls=2),
    "must-revalidate": Scene(
        Told(said={"max-age": 0, "must-revalidate": None}, tag=TAG),
        ((GET,), (GET,), (GET,)),
        most_calls=2,
    ),
    "no-cache with a tag": Scene(CHECKED, ((GET,), (GET,), (GET,)), most_calls=2),
    "a 304 of no-cache": Scene(CHECKED, ((GET,), (GET,), (GET,)), (GET,), most_calls=2),
    "a guess": Scene(SILENT, ((GET,), (GET,), (GET,)), rules=GUESS, most_calls=1),
    "vary": Scene(HOUR._replace(vary=("Foo",)), ((ONE,), (OTHER,), (ONE,))),
    "vary, known": Scene(HOUR._replace(vary=("Foo",)), ((OTHER,), (ONE,), (OTHER,)), (ONE,)),
    "head and get": Scene(TAGGED, ((HEAD,), (GET,), (HEAD,))),
}
"""Leader and followers."""

USERS = {
    "private": Scene(PRIVATE, ((GET,), (GET,), (GET,))),
    "private, known": Scene(PRIVATE, ((ALICE,), (BOB,), (GET,)), (ALICE,)),
    "max-age=0": Scene(NOW, ((ALICE,), (BOB,), (GET,))),
    "max-age": Scene(HOUR, ((ALICE,), (BOB,), (CAROL,))),
    "no-cache": Scene(CHECKED, ((BOB,), (CAROL,), (GET,))),
    "public": Scene(Told(said={"public": None, "max-age": 3600}), ((ALICE,), (BOB,), (GET,))),
    "public, stale": Scene(Told(said={"public": None, "max-age": 0}), ((BOB,), (CAROL,), (GET,))),
    "public without freshness": Scene(
        Told(said={"public": None}), ((GET,), (BOB,), (GET,)), rules=GUESS
    ),
    "must-revalidate": Scene(
        Told(said={"must-revalidate": None, "max-age": 3600}),
        ((ALICE,), (BOB,), (ALICE,)),
    ),
    "targeted": Scene(Told(targeted={"max-age": 3600}), ((BOB,), (ALICE,), (CAROL,))),
    "a guess": Scene(SILENT, ((GET,), (BOB,), (CAROL,)), rules=GUESS),
    "a guess, stored": Scene(SILENT, ((BOB,), (GET,)), (GET,), rules=GUESS),
    "a cookie": Scene(COOKIE, ((GET,), (GET,), (GET,))),
    "a public cookie": Scene(
        Told(said={"public": None, "max-age": 3600}, cookie=True), ((GET,), (BOB,))
    ),
    "a cookie with a guess": Scene(Told(cookie=True), ((GET,), (GET,)), rules=GUESS),
    "a private 304": Scene(OLD, ((GET,), (GET,), (GET,)), (GET,), confirmed=PRIVATE),
    "a 304 with a cookie": Scene(OLD, ((GET,), (GET,), (GET,)), (GET,), confirmed=COOKIE),
    "a 304 with a guess": Scene(
        OLD,
        ((BOB,), (GET,)),
        (GET,),
        confirmed=Told(said={}, tag=TAG),
        alike=True,
        rules=GUESS,
    ),
    "a 304 for one": Scene(OLD, ((BOB,), (GET,), (CAROL,)), (GET,), confirmed=COOKIE, alike=True),
    "a private 304 of what is targeted": Scene(
        Told(targeted={"max-age": 0}, tag=TAG),
        ((GET,), (GET,)),
        (GET,),
        confirmed=PRIVATE,
    ),
    "a private 304 for one": Scene(
        OLD, ((BOB,), (GET,), (BOB,)), (GET,), confirmed=PRIVATE, alike=True
    ),
    "a private part": Scene(TAGGED, ((GET,), (GET,)), (PART,), part=PRIVATE),
    "a part with a cookie": Scene(TAGGED, ((GET,), (GET,)), (PART,), part=COOKIE),
    "a private head": Scene(TAGGED, ((HEAD,), (GET, GET)), headed=PRIVATE),
    "a private head of what is targeted": Scene(
        Told(targeted={"max-age": 3600}, tag=TAG), ((HEAD,), (GET, GET)), headed=PRIVATE
    ),
    "a head with a cookie": Scene(TAGGED, ((HEAD,), (GET, GET)), headed=COOKIE),
    "a head for one": Scene(TAGGED, ((BOB_HEAD,), (GET, GET)), headed=TAGGED, alike=True),
}
"""Those of whom nobody may get another's."""

CHANGES = {
    "a get under way": Scene(HOUR, ((GET,), (POST, GET)), in_pieces=True),
    "stored before": Scene(HOUR, ((QUICK, GET), (POST, QUICK)), (GET,)),
    "two later": Scene(TAGGED, ((GET,), (POST, GET), (GET,))),
    "max-age=0": Scene(NOW, ((GET,), (POST, GET), (GET,))),
    "users": Scene(Told(said={"public": None, "max-age": 9}), ((ALICE,), (POST, BOB))),
    "a 304 under way": Scene(OLD, ((GET,), (POST, GET)), (GET,), confirmed=TAGGED),
    "a 304 for one under way": Scene(
        OLD, ((BOB,), (POST, GET)), (GET,), confirmed=TAGGED, alike=True
    ),
    "a 304 under way, of what was doubtful": Scene(
        OLD, ((GET,), (POST, GET)), (GET,), confirmed=TAGGED, doubtful=True
    ),
    "stored before, not in memory": Scene(HOUR, ((GET, QUICK), (POST, QUICK)), (GET,), cold=True),
    "a head under way": Scene(TAGGED, ((HEAD,), (GET, POST, GET))),
    "a refresh": Scene(
        Told(said={"max-age": 0, "stale-while-revalidate": 60}, tag=TAG),
        ((GET,), (POST, GET)),
        (GET,),
    ),
    "a part that completes": Scene(TAGGED, ((GET,), (POST, GET)), (PART,)),
    "vary": Scene(HOUR._replace(vary=("Foo",)), ((ONE,), (POST, OTHER)), (OTHER,)),
    "two changes": Scene(HOUR, ((GET,), (POST, GET), (POST,))),
    "answers to post": Scene(HOUR, ((POST, GET), (POST, GET)), done=HOUR),
    "answers to post and get": Scene(HOUR, ((GET, GET), (POST, GET)), (GET,), done=HOUR),
}
"""Unsafe requests among the others."""

WORKERS = {
    "following": Scene(HOUR, ((GET,), (GET,)), workers=2, most_calls=1),
    "following a guess": Scene(SILENT, ((GET,), (BOB,)), rules=GUESS, workers=2),
    "no-cache": Scene(CHECKED, ((GET,), (GET,)), (GET,), workers=2),
    "users": Scene(HOUR, ((ALICE,), (BOB,)), workers=2),
    "a get under way": Scene(HOUR, ((GET,), (POST, GET)), workers=2),
    "stored before": Scene(HOUR, ((GET, QUICK), (POST, GET)), (GET,), workers=2),
    "later at the other": Scene(HOUR, ((GET,), (POST,), (GET,)), (GET,), workers=2),
    "a 304 under way": Scene(OLD, ((GET,), (POST, GET)), (GET,), confirmed=TAGGED, workers=2),
    "a head under way": Scene(TAGGED, ((HEAD,), (GET, POST, GET)), workers=2),
    "a part that completes": Scene(TAGGED, ((GET,), (POST, GET)), (PART,), workers=2),
    "vary": Scene(HOUR._replace(vary=("Foo",)), ((ONE,), (OTHER,)), workers=2),
    "answers to post": Scene(HOUR, ((POST, GET), (POST, GET)), done=HOUR, workers=2),
}
"""Two workers with one store."""

NODES = {name: scene._replace(far=True) for name, scene in WORKERS.items()}
"""The same on two machines."""

ALL = {
    "nodes": NODES,
    "following": FOLLOWING,
    "users": USERS,
    "changes": CHANGES,
    "workers": WORKERS,
}
