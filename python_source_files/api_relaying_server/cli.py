"""The command: read the settings, say what would run or run it, and stop as asked."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from api_relaying_server import __version__, early
from api_relaying_server.admin_address import Opened, admin_access, open_admin
from api_relaying_server.checking import (
    doubts_about,
    findings_of,
    has_room,
    missing_room,
    no_cache,
    require_folder,
    require_rooms,
    why_not,
)
from api_relaying_server.configuration import command_line
from api_relaying_server.configuration.sources import from_environment, from_file
from api_relaying_server.configuration.values import cache_file, cores
from api_relaying_server.errors import ConfigError, UsageError
from api_relaying_server.importing import quick_imports
from api_relaying_server.process import (
    Signals,
    Stoppable,
    configure_logging,
    keep_stacks_small,
    notify_systemd,
)
from api_relaying_server.runtime import collect_young_only
from api_relaying_server.settings import (
    FOREIGN_VARIABLES,
    TABLE,
    Settings,
    by_group,
    place_of,
    resolve,
)
from api_relaying_server.stores.database_url import shown

if TYPE_CHECKING:
    from api_relaying_server.one_process import OneProcess

PROGRAM = "api-relaying-server"

STOPPED_AS_ASKED, FAILED, WRONG_USAGE = 0, 1, 2

EXAMPLES = f"""\
A caching relay in front of one slow, rate-limited HTTP API.

  {PROGRAM} --demo      relay to a sample API: no network needed
  {PROGRAM} --upstream https://example.org/api --ttl '/news/*=5m'
  curl -i http://localhost:8000/restaurant
  {PROGRAM} warm -h     how to fill the cache beforehand
  {PROGRAM} status      what it does now; also: purge, explain"""

NOTES = """\
WHEN is SECONDS or midnight@Area/City: until the next local midnight there.
GLOB has to match the whole path; * stands for anything. The first match counts.
SECONDS: 90, 1.5, 5m, 1h or 1d. SIZE: 4096, 32KiB, 1.5GiB or 10MB.
A flag counts before its variable (RELAY_TIMEOUT_READ=10), that before its key
in the file (timeout-read = 10). --no-NAME turns a flag without value off again."""

ENOUGH_FOR_A_CORE = 4  # workers; more of them only make each other wait

_log = logging.getLogger(__name__)


class Servable(Stoppable, Protocol):
    """A relay that listens already and answers while it serves."""

    @property
    def addresses(self) -> Sequence[str]:
        """The URLs it listens on."""

    def serve(self) -> None:
        """Answers requests until stopped."""


Build = Callable[[Settings, str], Servable]
OnListening = Callable[[Sequence[str], Sequence[str]], None]


class Hooks(NamedTuple):
    """What a caller has to do with a relay: `build` makes the worker, `on_listening` is told the
    URLs that it listens on, and those of its admin address.
    """

    build: Build | None = None
    on_listening: OnListening = lambda addresses, admin: None


NO_HOOKS = Hooks()
Command = Callable[[Sequence[str], Mapping[str, str], Hooks], int]


def main(
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    hooks: Hooks = NO_HOOKS,
) -> int:
    """Runs the command line `argv` and returns its exit code.

    Nothing is raised: what goes wrong is one line on standard error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS[words.pop(0)] if words[:1] and words[0] in COMMANDS else serve
    try:
        return command(words, os.environ if environ is None else environ, hooks)
    except UsageError as wrong:
        return _complain(str(wrong), WRONG_USAGE)
    except ConfigError as wrong:
        return _complain(str(wrong), WRONG_USAGE if isinstance(wrong, UsageError) else FAILED)
    except KeyboardInterrupt:
        return STOPPED_AS_ASKED
    except ModuleNotFoundError as missing:
        return _complain(f"{missing}; in the folder of the sources: pip install .", FAILED)
    except Exception as wrong:
        _log.debug("failed", exc_info=True)
        return _complain(f"{type(wrong).__name__}: {wrong}; --log-level debug tells more", FAILED)


def serve(words: Sequence[str], environ: Mapping[str, str], hooks: Hooks) -> int:
    """The command `serve`, and what is run without a command."""
    parser = command_line.make_parser(list(by_group()), PROGRAM, EXAMPLES, NOTES)
    try:
        asked = command_line.parse(parser, words, TABLE)
        if asked.help:
            return _print(parser.format_help())
        if asked.version:
            from api_relaying_server.version import version_and_commit

            return _print(f"{PROGRAM} {version_and_commit()}\n")
        settings, warnings = read_settings(asked, environ)
        if settings.ask and not settings.check:
            place = place_of(Settings.ask, settings.written)
            raise ConfigError(f"{place}: is for --check alone; give both")
    except ConfigError as wrong:
        return _complain(str(wrong), WRONG_USAGE)
    warnings += [*_unused_sockets(settings, environ), *doubts_about(settings)]
    for warning in warnings:
        _say(f"{PROGRAM}: warning: {warning}")
    if settings.check:
        return _check(settings)
    require_rooms(settings)
    keep_stacks_small()
    read = partial(_read_again, asked, environ)
    if settings.workers > 1 and hooks.build is None:
        return _run_workers(settings, read, hooks)
    return _run(settings, read, hooks)


def _check(settings: Settings) -> int:
    """Says what stands in the way, or what would run and what was found well."""
    faults, well = findings_of(settings)
    if settings.ask and not faults:
        with quick_imports():
            from api_relaying_server.asking import ask

        configure_logging("error", settings.log_format)  # what is found is told once, here
        faults, answered = ask(settings)
        well += answered
    for fault in faults:
        _complain(fault, WRONG_USAGE)
    if faults:
        return WRONG_USAGE
    return _print(_what_would_run(settings) + "".join(f"ok: {line}\n" for line in well))


def warm(words: Sequence[str], environ: Mapping[str, str], hooks: Hooks) -> int:
    """The command `warm`."""
    early.end()
    if not has_room("operations"):
        raise ConfigError(f"warm {missing_room('operations')}")
    from api_relaying_server.operations.warm_command import main as warm_main

    return warm_main(PROGRAM, words, environ)


def ask_admin(name: str) -> Command:
    """The command of that name, which asks the admin address."""

    def command(words: Sequence[str], environ: Mapping[str, str], hooks: Hooks) -> int:
        early.end()
        if not has_room("operations"):
            raise ConfigError(f"{name} {missing_room('operations')}")
        from api_relaying_server.operations.admin_commands import main as admin_main

        return admin_main(PROGRAM, [name, *words], environ)

    return command


COMMANDS: dict[str, Command] = {
    "serve": serve,
    "warm": warm,
    **{name: ask_admin(name) for name in ("status", "purge", "explain")},
}


def read_settings(
    asked: command_line.Asked, environ: Mapping[str, str]
) -> tuple[Settings, list[str]]:
    """The settings from flags, environment, file and defaults, in this order; and warnings."""
    environment, warnings = from_environment(environ, TABLE, FOREIGN_VARIABLES)
    given = {**environment, **asked.given}
    config = given.get("config")
    if config is not None:
        given = {**from_file(config.texts[-1], config.place, TABLE), **given}
    return resolve(given), warnings


def _unused_sockets(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """A warning where the service manager has handed sockets over and none is used."""
    handed_over = environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS")
    if not handed_over or settings.listen:
        return []
    return [f"LISTEN_FDS={handed_over}: the sockets handed over are not used; give --listen fd:3"]


def _read_again(asked: command_line.Asked, environ: Mapping[str, str]) -> Settings:
    """The settings of now, while the relay runs. Raises ConfigError."""
    settings, _ = read_settings(asked, environ)
    require_rooms(settings)
    _make_cache_folder(settings)
    for doubt in doubts_about(settings):
        _log.warning("%s", doubt)
    return settings


def _run(settings: Settings, read: Callable[[], Settings], hooks: Hooks) -> int:
    build = hooks.build
    configure_logging(settings.log_level, settings.log_format)
    signals = Signals()
    with signals.handled(), _upstream(settings) as upstream:
        _make_cache_folder(settings)
        opened = open_admin(settings) if build is None else Opened(())
        try:
            worker = build(settings, upstream) if build else _one_process(settings, upstream, read)
        except BaseException as wrong:
            opened.close()
            if isinstance(wrong, OSError):
                raise ConfigError(why_not(wrong, settings)) from wrong
            raise
        with _administered(settings, worker, opened) as admin:
            _announce(settings, upstream, worker.addresses, admin)
            notify_systemd("READY=1")
            hooks.on_listening(worker.addresses, admin)
            signals.act_on(worker)
            collect_young_only()
            worker.serve()
    _log.info("stopped")
    return STOPPED_AS_ASKED


def _one_process(settings: Settings, upstream: str, read: Callable[[], Settings]) -> Servable:
    # Imported only now: help and errors need not wait for the libraries of the relay.
    with quick_imports():  # the store that needs a driver imports it itself
        from api_relaying_server.one_process import OneProcess

    return OneProcess(settings, upstream, read, why_not)


@contextmanager
def _administered(settings: Settings, relay: Servable, opened: Opened) -> Iterator[Sequence[str]]:
    """Serves the admin address of a relay while the block runs; its URLs."""
    opened.say()
    if not opened.sockets:
        yield ()
        return
    from api_relaying_server.assembly import urls_of
    from api_relaying_server.operations.admin import AdminAddress

    one = cast("OneProcess", relay)
    urls = urls_of(opened.sockets)
    address = AdminAddress(one, opened.sockets, *admin_access(settings))
    one.on_reloaded = lambda settings: address.renew(admin_access(settings).token)
    try:
        yield urls
    finally:
        address.close()


def _run_workers(settings: Settings, read: Callable[[], Settings], hooks: Hooks) -> int:
    """The same with several processes."""

    def on_ready(upstream: str, addresses: Sequence[str], admin: Sequence[str]) -> None:
        _announce(settings, upstream, addresses, admin)
        notify_systemd("READY=1")
        hooks.on_listening(addresses, admin)

    configure_logging(settings.log_level, settings.log_format)
    if settings.workers > ENOUGH_FOR_A_CORE * cores():
        told = "--workers: %d share %d cores; one for each core is usually best"
        _log.warning(told, settings.workers, cores())
    _make_cache_folder(settings)
    with quick_imports():
        from api_relaying_server.cluster.workers import Workers
    try:
        workers = Workers(settings, read, why_not)
    except OSError as wrong:
        raise ConfigError(why_not(wrong, settings)) from wrong
    code = workers.run(on_ready)
    _log.info("stopped")
    return code


@contextmanager
def _upstream(settings: Settings) -> Iterator[str]:
    """The URL of the upstream; that of the sample API, running, where it was asked for."""
    if not settings.demo:
        yield settings.upstream
        return
    from sample_menu_api.server import SampleMenuApi

    sample = SampleMenuApi(host="127.0.0.1", port=0)
    sample.start()
    try:
        yield sample.url
    finally:
        sample.close()


# --- the cache's folder


def _make_cache_folder(settings: Settings) -> None:
    """Makes the folder of the store's file, for this user alone, where it is missing."""
    path = cache_file(settings.cache)
    folder = os.path.dirname(path) if path else ""
    if path:
        require_folder(settings, path)
    if folder and not os.path.isdir(folder):
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            _log.info("made the folder of the cache: %s", os.path.abspath(folder))
        except OSError as wrong:
            raise ConfigError(no_cache(settings, folder, wrong.strerror)) from wrong


# --- what is told


def _what_would_run(settings: Settings) -> str:
    lines = [f"{PROGRAM} {__version__} would run with these settings:"]
    rows = [row for row in TABLE if row.in_file]
    texts = {row.name: " ".join(settings.written[row.name].texts) or "-" for row in rows}
    texts["cache"] = shown(texts["cache"])
    if settings.demo:
        texts["upstream"] = "the sample API"
    name_width = max(len(row.flag) for row in rows)
    value_width = max(len(text) for text in texts.values() if len(text) <= 60)
    for row in rows:
        place = settings.written[row.name].place
        lines.append(f"  {row.flag:{name_width}}  {texts[row.name]:{value_width}}  {place}")
    return "\n".join(lines) + "\n"


def _announce(
    settings: Settings, upstream: str, addresses: Sequence[str], admin: Sequence[str]
) -> None:
    """Says on standard error what runs: the URLs to ask, the upstream, the cache, the URLs of the
    admin address.
    """
    _log.info("starting: %s %s, process %d", PROGRAM, __version__, os.getpid())
    _say_unused_proxy(settings)
    extra = {"addresses": list(addresses), "upstream": upstream, "cache": shown(settings.cache)}
    extra["admin"] = list(admin)
    _log.info("listening on %s", " ".join(addresses), extra=extra)
    if settings.log_format == "json":
        return
    kind = " (sample data)" if settings.demo else ""
    _say(f"{PROGRAM} {__version__}")
    if settings.workers > 1:
        _say(f"  workers    {settings.workers}")
    for address in addresses:
        _say(f"  listening  {address}")
    _say(f"  upstream   {upstream}{kind}")
    _say(f"  cache      {shown(settings.cache)}")
    for address in admin:
        _say(f"  admin      {address}")


def _say_unused_proxy(settings: Settings) -> None:
    """Who runs this where all programs use a proxy may expect that this one does, too."""
    if settings.demo or settings.offline or settings.upstream_proxy is not None:
        return
    scheme = settings.upstream.partition(":")[0]
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        if os.environ.get(name):
            told = "%s is set and not used: where the upstream needs a proxy, give --upstream-proxy"
            _log.info(told, name)
            return


def _complain(text: str, code: int) -> int:
    """Says what is wrong in one line and returns the exit code."""
    _say(f"{PROGRAM}: {' '.join(text.split())}")
    return code


def _say(line: str) -> None:
    """Writes a line to standard error, if anybody is there to read it."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except OSError:
            pass


def _print(text: str) -> int:
    """Writes to standard output as far as somebody reads it; returns the exit code."""
    if sys.stdout is None:
        return STOPPED_AS_ASKED
    encoding = sys.stdout.encoding or "utf-8"
    try:
        # A value may have letters that the terminal's encoding has not.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whatever is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return STOPPED_AS_ASKED
