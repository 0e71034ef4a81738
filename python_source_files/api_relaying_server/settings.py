"""The settings: one table, in which each is written once.

The class body of `Settings` is the table. A row is all there is to a setting: its flag, its
variable `RELAY_<NAME>`, its key in the file, its help, its line in docs/settings.md and its typed
attribute derive from it, and go when it goes. Defaults are written as a user would write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from api_relaying_server.caching.allow import parse_allow
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.configuration import values
from api_relaying_server.configuration.secret import parse_secret
from api_relaying_server.configuration.serving_tls import refuse_wrong_pair
from api_relaying_server.configuration.setting import Given, Setting, maybe, one, several, switch
from api_relaying_server.configuration.upstream_field import parse_upstream_field
from api_relaying_server.configuration.upstream_route import (
    certificate_file,
    key_file,
    proxy_url,
    refuse_wrong_route,
)
from api_relaying_server.configuration.weekly import parse_weekly
from api_relaying_server.errors import ConfigError
from api_relaying_server.stores.store_path import CACHE_FORMS

DEFAULT_UPSTREAM = "https://menu.dckube.scilifelab.se/api"
MENUS_END_AT_MIDNIGHT = "/restaurant/*=midnight@Europe/Stockholm"

UPSTREAM = "upstream"
LISTENING = "listening"
CACHE = "cache"
FRESHNESS = "freshness"
PROTECTION = "protection of the upstream"
LIMITS = "limits"
LOGS = "logs"
OTHER = "other"
GROUPS = (UPSTREAM, LISTENING, CACHE, FRESHNESS, PROTECTION, LIMITS, LOGS, OTHER)

BY_DEFAULT = "default"

# Variables of the same prefix that belong to the dish tool.
FOREIGN_VARIABLES = frozenset(("RELAY_URL",))

# Below a millisecond a time-out is a mistake in the unit.
_timeout = values.duration(0.001, values.LONGEST_TIMEOUT)


def _default_cache(so_far: Mapping[str, Any]) -> str:
    """A store in the user's cache folder; by default no two upstreams share one."""
    from os.path import join

    from platformdirs import user_cache_dir

    upstream = so_far["upstream"]
    name = "cache" if upstream == DEFAULT_UPSTREAM else "cache-" + values.file_slug(upstream)
    if so_far.get("demo"):
        name = "demo"
    try:
        folder = user_cache_dir("api_relaying_server")
    except RuntimeError:
        folder = "~"  # this user has no home folder, which is told as of any such path
    return "sqlite:///" + join(folder, name + ".sqlite3")


def _default_max_ttl(so_far: Mapping[str, Any]) -> str | None:
    """A menu is of today: known of the default upstream and of the sample, of no other."""
    return MENUS_END_AT_MIDNIGHT if so_far["upstream"] == DEFAULT_UPSTREAM else None


def _default_ignore_field(so_far: Mapping[str, Any]) -> str | None:
    """Cookies mean nothing to the default upstream and to the sample, as far as is known."""
    return "cookie" if so_far["upstream"] == DEFAULT_UPSTREAM else None


class Settings:
    """The value of every setting, as attributes of their types; never changed.

    `as_dict` has the same values by name; `written` the texts they were read from, without
    secrets, and where those stand, which is BY_DEFAULT for what nobody gave.
    """

    __slots__ = ("as_dict", "written")

    as_dict: Mapping[str, Any]
    written: Mapping[str, Given]

    upstream = one(
        UPSTREAM,
        "the API to relay to",
        metavar="URL",
        parse=values.upstream_url,
        default=DEFAULT_UPSTREAM,
        more="A request's path and query are appended to it; no other host is contacted.",
    )
    demo = switch(
        UPSTREAM,
        "relay to a built-in sample menu API",
        more="It starts on a free loopback port, so no network is needed.",
    )
    timeout_connect = one(
        UPSTREAM,
        "maximum time to connect to the upstream",
        metavar="SECONDS",
        parse=_timeout,
        default="5",
    )
    timeout_read = one(
        UPSTREAM,
        "maximum time without upstream data",
        metavar="SECONDS",
        parse=_timeout,
        default="30",
    )
    public_host = maybe(
        UPSTREAM,
        "X-Forwarded-Host to send upstream",
        metavar="NAME",
        parse=values.host_and_port,
        more="Without it the field is not sent. A client's `Host` is never passed on.",
    )

    upstream_header = several(
        UPSTREAM,
        "field to send with every upstream call",
        metavar="'NAME: VALUE'",
        parse=parse_upstream_field,
        by_line=True,
        secret=True,
        more="May be repeated; in a variable write one a line. `NAME: @FILE` reads the value from "
        "a file, again on `SIGHUP`. It takes the place of what a client says under that name, and "
        "given `Authorization` or another credential, its answers are everybody's. Values are "
        "never shown; but `ps` shows flags, so give a secret in a file or a variable.",
    )
    upstream_ca = maybe(
        UPSTREAM,
        "CAs that the upstream's certificate may be of",
        metavar="FILE",
        parse=certificate_file,
        secret=True,
        more="In PEM, in place of the system's. Read again on `SIGHUP`, as are the next two.",
    )
    upstream_cert = maybe(
        UPSTREAM,
        "client certificate for the upstream",
        metavar="FILE",
        parse=certificate_file,
        secret=True,
        more="In PEM, with the certificates between it and its CA behind it (mutual TLS).",
    )
    upstream_key = maybe(
        UPSTREAM,
        "private key of that certificate",
        metavar="FILE",
        parse=key_file,
        secret=True,
        more="In PEM, without a passphrase. Not needed where the key is in the same file.",
    )
    upstream_proxy = maybe(
        UPSTREAM,
        "HTTP proxy on the way to the upstream",
        metavar="URL",
        parse=proxy_url,
        secret=True,
        more="`http://HOST:PORT` or `http://NAME:PASSWORD@HOST:PORT`, letters other than ASCII "
        "ones and digits as %XX. Name and password are never shown; but `ps` shows flags, so give "
        "them in a variable or the file. Variables such as `HTTPS_PROXY` do not count.",
    )
    host = one(
        LISTENING,
        "address to listen on",
        metavar="NAME",
        parse=values.host,
        default="localhost",
        more="`localhost`: every loopback address it resolves to; `0.0.0.0`: every IPv4 address; "
        "`::`: every address.",
    )
    port = one(
        LISTENING,
        "port to listen on; 0: a free one",
        metavar="N",
        parse=values.number(0, 65535, "a port number"),
        default="8000",
    )
    listen = several(
        LISTENING,
        "where to listen instead: unix:PATH or fd:N",
        metavar="PLACE",
        parse=values.endpoint,
        by_line=True,
        more="In place of `--host` and `--port`; may be repeated. `unix:PATH`: a Unix socket for "
        "its user and group (mode 0660), made anew where nobody listens at an old one, removed at "
        "the end. `fd:N`: a listening socket that was handed over under this number; those of a "
        "systemd `.socket` unit begin at `fd:3`. See docs/operations.md.",
    )
    tls_cert = maybe(
        LISTENING,
        "certificate for clients: speak HTTPS only",
        metavar="FILE",
        parse=certificate_file,
        secret=True,
        more="In PEM, with the certificates between it and its CA behind it. TLS 1.2 and 1.3, on "
        "all addresses of the relay. Read again on `SIGHUP`, for new connections. A plain HTTP "
        "request gets 400.",
    )
    tls_key = maybe(
        LISTENING,
        "private key of that certificate",
        metavar="FILE",
        parse=key_file,
        secret=True,
        more="In PEM, without a passphrase. May be the same file. Read again on `SIGHUP`.",
    )
    workers = one(
        LISTENING,
        "worker processes; auto: one per core",
        metavar="N",
        parse=values.workers,
        default="1",
        more="They share the port, the store and the limits on upstream calls. A change in one "
        "reaches the others at once. A worker that ends is replaced.",
    )
    threads = one(
        LISTENING,
        "maximum number of request threads",
        metavar="N",
        parse=values.number(1, 10_000, "a number of threads"),
        default="64",
        more="Per worker. Fresh answers from memory need no thread. When all threads are busy, "
        "requests wait in a short queue, then get 503 with `Retry-After`.",
    )
    trust_forwarded = several(
        LISTENING,
        "proxies whose X-Forwarded fields are trusted",
        metavar="ADDRESS",
        parse=values.peer,
        separator=",",
        more="Addresses or blocks such as `10.0.0.0/8`; repeat it or separate with commas; `unix:` "
        "is everybody who comes by a Unix socket. From other clients these fields are dropped.",
    )
    purge_from = several(
        LISTENING,
        "clients that may send PURGE",
        metavar="ADDRESS",
        parse=values.peer,
        separator=",",
        default="127.0.0.0/8,::1",
        shown="loopback",
        more="As `--trust-forwarded`, in place of the default. Others get 405. So does a request "
        "that came through a proxy, unless that is in `--trust-forwarded` and names such a client. "
        "No `PURGE` goes upstream.",
    )

    admin = one(
        LISTENING,
        "address for health, metrics and purges; off: none",
        metavar="HOST:PORT",
        parse=values.address,
        default="localhost:8001",
        more="Health, metrics, purges and the live page: see docs/operations.md. Port 0: a free "
        "one, printed at start. If another program uses the default port, the relay says so and "
        "runs without; a port that was named must be free.",
    )
    admin_token = maybe(
        LISTENING,
        "token that the admin address asks for",
        metavar="TOKEN",
        parse=parse_secret,
        secret=True,
        more="Required where `--admin` is not a loopback address. All calls but `/healthz` and "
        "`/readyz` then need `Authorization: Bearer TOKEN`. `@FILE` reads it from a file, again on "
        "`SIGHUP`. It is never shown; but `ps` shows flags, so use a file or `RELAY_ADMIN_TOKEN`.",
    )

    cache = one(
        CACHE,
        "store: " + ", ".join(CACHE_FORMS),
        metavar="URL",
        parse=values.cache_url,
        default=_default_cache,
        shown="SQLite in the user's cache folder",
        more="A path is `sqlite:///relative` or `sqlite:////absolute`. By default each upstream "
        "has its own file. All relays that name the same Redis (`rediss://` over TLS) or MongoDB "
        "share it: see docs/cluster.md.",
    )
    cache_size = one(
        CACHE,
        "maximum size of the store",
        metavar="SIZE",
        parse=values.size(low=1024**2),
        default="1GiB",
        more="The least useful entries are evicted first. Redis and MongoDB have their own limits.",
    )
    hot_size = one(
        CACHE,
        "maximum size of the answers in memory",
        metavar="SIZE",
        parse=values.size(),
        default="128MiB",
        more="Per worker.",
    )
    offline = switch(
        CACHE,
        "answer from the store only, fresh or stale",
        more="What is not stored gets 504.",
    )

    ignore_query = several(
        CACHE,
        "query parameters that select no response",
        metavar="NAME",
        parse=values.parameter_name,
        more="May be repeated. Names are compared decoded; `*` matches any text: `utm_*`. The "
        "upstream still gets all parameters, but requests that differ in these alone share one "
        "stored response. Never name one that changes the answer, or by which the API tells users "
        "apart.",
    )
    sort_query = switch(
        CACHE,
        "ignore the order of query parameters",
        more="Parameters of the same name keep their order.",
    )
    compress = switch(
        CACHE,
        "compress what is stored, for clients that accept it",
        more="Once for each response and coding: text, JSON, XML and SVG above 1 KiB that came "
        "without a coding and without `no-transform`. gzip always, br and zstd with the extras "
        "`brotli` and `zstd` (`pip install '.[brotli,zstd]'`). A compressed answer has a weak "
        "`ETag`, and a request with `Range` gets none.",
    )
    bypass = several(
        CACHE,
        "paths that are never cached",
        metavar="GLOB",
        parse=values.path_glob,
        more="May be repeated. `*` matches any text; GLOB is compared with the path without "
        "query, in each way in which the upstream may decode it. Such requests are never stored, "
        "never share a call and are never answered from the store. An unsafe request still "
        "invalidates what is stored.",
    )
    bypass_cookie = several(
        CACHE,
        "cookies whose requests are never cached",
        metavar="NAME",
        parse=values.cookie_name,
        more="May be repeated. The same for requests with a cookie of this name, whatever its "
        "value; `*` matches any text. It counts although `--ignore-field cookie` then keeps the "
        "cookie from the upstream.",
    )

    default_ttl = one(
        FRESHNESS,
        "freshness if the upstream gives none",
        metavar="SECONDS",
        parse=values.duration(),
        default="300",
        more="0: only the heuristics of RFC 9111.",
    )
    negative_ttl = one(
        FRESHNESS,
        "freshness of 404 and 410 if the upstream gives none",
        metavar="SECONDS",
        parse=values.duration(off=True),
        default="10",
    )
    ttl = several(
        FRESHNESS,
        "freshness of paths, instead of the upstream's",
        metavar="GLOB=WHEN",
        parse=parse_path_rule,
        more="May be repeated; the first match counts. `*` in GLOB matches any text; WHEN is "
        "a number of seconds (also `5m`, `1h`, `1d`) or `midnight@Area/City`. It sets freshness "
        "and gives no permission to store: private responses, responses with cookies, responses "
        "to credentials, and errors other than 404 and 410 are still not stored.",
    )
    ignore_field = several(
        FRESHNESS,
        "request field to drop on arrival",
        metavar="NAME",
        parse=values.field_name,
        default=_default_ignore_field,
        shown="cookie with the default upstream",
        more="May be repeated. For a field that the API ignores but that keeps answers from being "
        "shared, such as the cookies that browsers send to all ports of a host. "
        "Default: `cookie` with the default upstream and `--demo`, otherwise none.",
    )
    max_ttl = several(
        FRESHNESS,
        "maximum freshness",
        metavar="[GLOB=]WHEN",
        parse=lambda text: parse_path_rule(text, "*"),
        default=_default_max_ttl,
        shown="menus end at midnight",
        more="Of all responses, or of paths that match GLOB. May be repeated; the first match "
        "counts. Clients get the shortened `max-age`. Default with the default upstream and "
        f"`--demo`: `{MENUS_END_AT_MIDNIGHT}`; otherwise none.",
    )
    stale_if_error = one(
        FRESHNESS,
        "how long stale answers may be served while the upstream fails",
        metavar="SECONDS",
        parse=values.duration(off=True),
        default="86400",
        more="Counted from the end of freshness, unless the upstream forbids it.",
    )
    stale_while_revalidate = one(
        FRESHNESS,
        "answer stale while one call refreshes",
        metavar="SECONDS",
        parse=values.duration(off=True),
        default="0",
        more="Counted from the end of freshness, where the upstream says nothing about it "
        "(`stale-while-revalidate`, `must-revalidate`, `proxy-revalidate`, `no-cache` and "
        "`s-maxage` do). The client gets the stale answer at once. Not for what was never fresh "
        "(`max-age=0`), nor after an invalidation.",
    )
    refresh_ahead = one(
        FRESHNESS,
        "refresh popular entries before expiry",
        metavar="SECONDS",
        parse=values.duration(off=True),
        default="off",
    )
    warm_at = several(
        FRESHNESS,
        "time of day to fetch all menus",
        metavar="[DAYS ]TIME",
        parse=parse_weekly,
        more="Fetches the list of restaurants, then each menu, like the command `warm`. TIME is "
        "`HH:MM@Area/City`, DAYS such as `mon-fri` or `mon,wed`: `mon-fri 10:45@Europe/Stockholm`. "
        "May be repeated. In a variable write `mon-fri,10:45@Europe/Stockholm`.",
    )
    client_refresh = switch(
        FRESHNESS,
        "let clients ask for fresh answers",
        more="Obeys `no-cache`, `no-store`, `max-age` and `Pragma` in requests and sends them "
        "upstream. Without it they cause no upstream call.",
    )

    allow = several(
        PROTECTION,
        "requests to let through; without it all",
        metavar="[METHODS ]GLOB",
        parse=parse_allow,
        by_line=True,
        more="May be repeated; what none matches gets 403 and costs the upstream nothing. GLOB "
        "matches the whole path, decoded and without its query; `*` matches any text. METHODS are "
        "separated by commas, by default `GET`, which allows `HEAD` too. `GET *` makes the API "
        "read-only. The `OPTIONS` of a CORS preflight passes where its method would. In a "
        "variable write one rule a line.",
    )
    upstream_rate = one(
        PROTECTION,
        "maximum upstream calls: 5/s, 60/m or 100/h",
        metavar="N/s",
        parse=values.rate,
        default="off",
        more="Answers from the cache do not count. Beyond it clients get a stale answer, or 503 "
        "with `Retry-After`. `60/m,10` also sets the burst; its default is the calls of a second.",
    )
    upstream_connections = one(
        PROTECTION,
        "maximum upstream calls at the same time",
        metavar="N",
        parse=values.number(1, 10_000, "a number of connections"),
        default="32",
    )
    cool_down = one(
        PROTECTION,
        "pause of upstream calls after a failure",
        metavar="SECONDS",
        parse=values.duration(off=True),
        default="5",
        more="After a 429, a 5xx, a refused connection or a time-out; `0`: none. Meanwhile clients "
        "get stale answers; then one request tries again. `Retry-After` is always obeyed.",
    )

    max_body = one(
        LIMITS,
        "maximum size of a request body",
        metavar="SIZE",
        parse=values.size(),
        default="64MiB",
        more="Larger ones get 413.",
    )
    max_head = one(
        LIMITS,
        "maximum size of a request head",
        metavar="SIZE",
        parse=values.size(low=1024),
        default="32KiB",
        more="Larger ones get 431.",
    )
    timeout_head = one(
        LIMITS,
        "maximum time to receive a request head",
        metavar="SECONDS",
        parse=_timeout,
        default="10",
    )
    timeout_idle = one(
        LIMITS,
        "maximum idle time between two requests",
        metavar="SECONDS",
        parse=_timeout,
        default="60",
    )
    drain = one(
        LIMITS,
        "time to finish requests at shutdown",
        metavar="SECONDS",
        parse=values.duration(0.0, values.LONGEST_TIMEOUT),
        default="15",
    )
    connections_per_client = one(
        LIMITS,
        "maximum connections from one address",
        metavar="N",
        parse=values.number(1, 1_000_000, "a number of connections", off=True),
        default="off",
    )

    access_log = one(
        LOGS,
        "file for one line per request; -: standard output",
        metavar="FILE",
        parse=values.log_file,
        default="off",
    )
    access_log_format = one(
        LOGS,
        "combined or json",
        metavar="FORMAT",
        parse=values.choice("combined", "json"),
        default="combined",
    )
    log_level = one(
        LOGS,
        "debug, info, warning or error",
        metavar="LEVEL",
        parse=values.choice("debug", "info", "warning", "error"),
        default="info",
        more="The log goes to standard error.",
    )
    log_format = one(
        LOGS,
        "text or json",
        metavar="FORMAT",
        parse=values.choice("text", "json"),
        default="text",
    )

    config = maybe(
        OTHER,
        "TOML file with settings, named like the flags",
        metavar="FILE",
        parse=values.file_name,
        in_file=False,
        more='For example `port = 8000`, `demo = true`, `ttl = ["/a/*=1h", "*=60"]`.',
    )
    check = switch(
        OTHER,
        "check settings and report problems, then exit",
        in_file=False,
        more="It looks at ports, files, names and time zones; nothing is made or changed.",
    )
    ask = switch(
        OTHER,
        "with --check: ask the upstream once",
        in_file=False,
        more="One `GET` of the upstream's base path, sent as the relay would send it. An answer "
        "of 5xx is a problem, and so are 401 and 403 to the relay's own `--upstream-header`.",
    )

    def __init__(self, as_dict: Mapping[str, Any], written: Mapping[str, Given]) -> None:
        object.__setattr__(self, "as_dict", as_dict)
        object.__setattr__(self, "written", written)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are never changed: {name}")

    def __repr__(self) -> str:
        return f"Settings({self.as_dict})"

    @classmethod
    def of(cls, **texts: str) -> Settings:
        """Settings from texts by name, all else by default: `Settings.of(port="0", demo="on")`."""
        return resolve({name: Given((text,), name) for name, text in texts.items()})


TABLE: tuple[Setting[Any], ...] = tuple(
    row for row in vars(Settings).values() if isinstance(row, Setting)
)


def resolve(given: Mapping[str, Given]) -> Settings:
    """The settings when `given` (by name) is all that somebody wrote.

    ConfigError names the place of a text that is wrong, and the mend.
    """
    as_dict: dict[str, Any] = {}
    written: dict[str, Given] = {}
    # Those whose default depends on others come after them.
    for row in sorted(TABLE, key=lambda row: callable(row.default)):
        if row.name in given:
            written[row.name] = given[row.name]
        else:
            text = row.default(as_dict) if callable(row.default) else row.default
            written[row.name] = Given(() if text is None else (text,), BY_DEFAULT)
        try:
            as_dict[row.name] = row.read(written[row.name].texts)
        except ValueError as wrong:
            raise ConfigError(f"{place_of(row, written)}: {wrong}") from None
        if row.secret:
            values_read = as_dict[row.name] if row.repeatable else (as_dict[row.name],)
            texts = tuple(str(value) for value in values_read if value is not None)
            written[row.name] = written[row.name]._replace(texts=texts)
    _refuse_contradictions(as_dict, given)
    _refuse_open_admin(as_dict, given)
    refuse_wrong_route(as_dict, given)
    refuse_wrong_pair(as_dict, given)
    return Settings(as_dict, written)


def place_of(row: Setting[Any], written: Mapping[str, Given]) -> str:
    """What leads a message about a setting: where it stands, else the flag that would change it."""
    place = written[row.name].place
    return row.flag if place == BY_DEFAULT else place


def _refuse_contradictions(as_dict: Mapping[str, Any], given: Mapping[str, Given]) -> None:
    if as_dict.get("demo") and "upstream" in given:
        raise ConfigError(
            f"{given['demo'].place}: relays to a sample API, but {given['upstream'].place} names "
            "another upstream; use only one of them"
        )
    for name in ("host", "port"):
        if "listen" in given and name in given:
            raise ConfigError(
                f"{given['listen'].place}: takes the place of {given[name].place}; "
                "use only one of them"
            )
    for place in as_dict["listen"]:
        if as_dict["listen"].count(place) > 1:
            raise ConfigError(f"{given['listen'].place}: {place} is given twice; remove one")
    names = [field.name.lower() for field in as_dict.get("upstream_header", ())]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{given['upstream_header'].place}: {name} is given twice; remove one of them"
            )
    if as_dict.get("offline") and as_dict.get("warm_at"):
        raise ConfigError(
            f"{given['warm_at'].place}: nothing can be fetched with {given['offline'].place}; "
            "use only one of them"
        )
    if as_dict.get("offline") and as_dict["cache"] == "none://":
        raise ConfigError(
            f"{given['offline'].place}: there is nothing to answer from with the cache none://; "
            "give another cache, or do not use --offline"
        )


def _refuse_open_admin(as_dict: Mapping[str, Any], given: Mapping[str, Given]) -> None:
    admin = as_dict["admin"]
    if admin is not None and not admin.is_loopback and as_dict["admin_token"] is None:
        raise ConfigError(
            f"{given['admin'].place}: {admin.host} can be reached by others; give a token with "
            "RELAY_ADMIN_TOKEN or --admin-token @FILE, or a loopback address such as localhost:8001"
        )


def by_group(rows: Sequence[Setting[Any]] = TABLE) -> Iterator[tuple[str, list[Setting[Any]]]]:
    """The groups that have settings, in their order, with their rows."""
    for group in GROUPS:
        members = [row for row in rows if row.group == group]
        if members:
            yield group, members


def markdown_table() -> str:
    """The table of docs/settings.md."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    for group, rows in by_group():
        lines.append(f"| **{group}** | | |")
        for row in rows:
            flag = f"{row.flag} {row.metavar}".strip()
            default = f"`{row.shown}`" if row.shown == row.default else row.shown
            meaning = " ".join(part for part in (row.help + ".", row.more) if part)
            cells = (f"`{flag}`", default, meaning[0].upper() + meaning[1:])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown_table(), end="")  # noqa: T201
