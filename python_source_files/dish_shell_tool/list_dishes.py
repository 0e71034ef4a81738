#!/usr/bin/env python3
"""List restaurants and their dishes, as a relay of the menu API tells them.

The command: the order of its steps, what it writes where, how it ends. What the steps do stands in
the private modules beside this file.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

if not __package__:  # run as a plain file: let its package be found where the file is
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from dish_shell_tool import _choosing, _completion, _fetching, _menu_api, _showing, _terminal
from dish_shell_tool._options import DEFAULT_WATCH_S, PROGRAM, Options, make_parser, read_options
from dish_shell_tool._outcome import Exit, Failure
from dish_shell_tool._relay_http import DEFAULT_RELAY, Asker, Freshness, NoRelay, RelayError
from dish_shell_tool._text import clean

# Steps of a call


class _Source(NamedTuple):
    """The API as it answered, and its list."""

    api: _menu_api.MenuApi
    listing: _menu_api.Listing


def _new_get(options: Options) -> _menu_api.Get:
    return Asker(options.address, options.timeout).get


def _fetch_list(options: Options) -> _Source:
    """Return the list of restaurants; start a relay before, if none answers and one may."""
    path = _completion.memory_path(os.environ)
    try:
        source = _Source(*_menu_api.find_form(_new_get(options), _remembered_form(options)))
    except NoRelay as error:
        if not options.start:
            raise Failure(Exit.NO_ANSWER, f"{error}; {_how_to_start(options)}") from None
        _start(options, path)
        source = _Source(*_menu_api.find_form(_new_get(options)))
    _completion.remember(path, options.address.url, source.api.form, source.listing)
    return source


def _remembered_form(options: Options) -> str:
    last = _completion.recall(_completion.memory_path(os.environ))
    return last.form if last.relay == options.address.url else ""


def _how_to_start(options: Options) -> str:
    from dish_shell_tool import _starting

    if not _starting.can_start(options.address):
        return "is the address right?"
    return "add --start, or start one with: python -m api_relaying_server" + (
        "" if options.address.url == DEFAULT_RELAY else f" --port {options.address.port}"
    )


def _start(options: Options, memory: str) -> None:
    from dish_shell_tool import _starting

    log = os.path.join(os.path.dirname(memory), "relay.log")
    process_id = _starting.start_relay(options.address, log)
    _say(f"started a relay at {options.address.url} (process {process_id}, log {log})")


def _list_or_nothing(options: Options) -> _Source:
    """Return the list; where it failed but restaurants are named, an empty, incomplete one."""
    try:
        return _fetch_list(options)
    except RelayError as error:
        message = f"could not get the list of restaurants: {error}"
        if not options.restaurant or options.region or options.near:
            raise Failure(Exit.NO_ANSWER, message) from None
        unknown_age = Freshness(None, stale=False, received=time.time())
        nothing = _menu_api.Listing([], unknown_age, [message], complete=False)
        return _Source(_menu_api.form_called(_remembered_form(options)), nothing)


def _choose(options: Options, listing: _menu_api.Listing) -> list[_choosing.Entry]:
    """Return the entries that the flags ask for, without menus."""
    if options.restaurant:
        entries = _choosing.restaurants_called(options.restaurant, listing)
    else:
        entries = [_choosing.Entry(restaurant) for restaurant in listing.restaurants]
    if options.region:
        kept = _choosing.in_regions(entries, options.region)
        if not kept:
            regions = sorted({r.region for r in listing.restaurants if r.region})
            there = f"; there are {', '.join(regions)}" if regions else ""
            raise Failure(Exit.NOTHING_FOUND, f"no restaurant in that region{there}")
        entries = kept + [entry for entry in entries if entry.unknown]
    if options.near:
        position = options.position or _position_of(options.near, listing)
        entries = _choosing.by_distance(entries, position, options.within)
    return entries


def _position_of(name: str, listing: _menu_api.Listing) -> tuple[float, float]:
    entry = _choosing.restaurants_called([name], listing)[0]
    if entry.restaurant not in listing.restaurants:
        message = _choosing.unknown_message(name, listing.restaurants)
        raise Failure(Exit.UNKNOWN_RESTAURANT, f"--near: {message}")
    if entry.restaurant.coordinate is None:
        raise Failure(Exit.FAILED, f"--near: the position of {entry.restaurant.name} is unknown")
    return entry.restaurant.coordinate


def make_view(options: Options) -> _showing.View:
    """Ask the relay and return all that is to be shown; Failure where there is nothing."""
    source = _list_or_nothing(options)
    entries = _choose(options, source.listing)
    if options.with_dishes:
        wanted = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not options.watch
        with _terminal.ProgressBar(wanted) as progress:
            entries = _fetching.with_menus(
                entries,
                source.api,
                lambda: _new_get(options),
                source.listing.restaurants,
                progress,
            )
        entries = [
            _choosing.with_dishes(entry, options.search, options.vegetarian) for entry in entries
        ]
    return _showing.View(
        relay=options.address.url,
        entries=entries,
        with_dishes=options.with_dishes,
        with_distance=bool(options.near),
        mark_vegetarian=options.vegetarian,
        searching=bool(options.search or options.vegetarian),
        list_freshness=source.listing.freshness,
        list_notes=source.listing.notes,
        now=time.time(),
    )


def _outcome(view: _showing.View) -> Exit:
    if any(entry.unknown for entry in view.entries):
        return Exit.UNKNOWN_RESTAURANT
    if any(entry.dishes or not view.with_dishes for entry in view.entries):
        return Exit.FOUND
    if view.entries and all(entry.error for entry in view.entries):
        return Exit.NO_ANSWER
    return Exit.NOTHING_FOUND


# Output


def _say(message: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"{PROGRAM}: {message}\n")


def _width() -> int:
    import shutil  # late: a pipe has no width

    return shutil.get_terminal_size().columns


def _write_json(document: dict[str, object]) -> None:
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    sys.stdout.write(_showing.json_text(document, ascii_only))
    sys.stdout.flush()


def _show(options: Options, view: _showing.View) -> None:
    """Write data to standard output and notes to standard error."""
    form = options.format or ("table" if sys.stdout.isatty() else "plain")
    colour = _terminal.colour_wanted(os.environ, sys.stdout.isatty())
    if options.json:
        _write_json(_showing.json_document(view))
    elif form == "markdown":
        sys.stdout.write(_showing.markdown(view))
    elif form == "table":
        try:
            _terminal.draw(view, sys.stdout, _width(), colour)
        except ImportError:
            _say("tables need the package rich; plain lines instead")
            form = "plain"
    if form == "plain" and not options.json:
        marks = (_terminal.MATCH_ON, _terminal.MATCH_OFF) if colour else ("", "")
        sys.stdout.write(_showing.plain(view, *marks))
    sys.stdout.flush()
    in_words = form != "plain" and not options.json
    for note in _showing.notes(view, in_words):
        _say(note)
    if _outcome(view) is Exit.NOTHING_FOUND and (view.searching or not view.entries):
        _say("nothing found")


def _watch(options: Options) -> NoReturn:
    """Show the menus, and again whenever they have changed, until interrupted."""
    shown: _showing.View | None = None
    width, troubles = 0, ""
    while True:
        try:
            view = make_view(options)
        except Failure as failure:
            if shown is None:
                raise
            view = shown
            failed = str(failure)
        else:
            failed = "; ".join(sorted({entry.error for entry in view.entries if entry.error}))
        if shown is not None:
            view = _without_gaps(view, shown)
            if failed != troubles:
                _say_now(failed or "the relay answers again")
        is_over = bool(troubles) and not failed and sys.stdout.isatty()
        troubles = failed
        if shown is None or is_over or _content(view) != _content(shown) or width != _width():
            _redraw(options, view, first=shown is None)
            shown, width = view, _width()
        time.sleep(options.watch or DEFAULT_WATCH_S)


def _say_now(message: str) -> None:
    """Write one line to standard error with the time before it."""
    _say(f"{_showing.clock_time(time.time(), time.time())} {message}")


def _without_gaps(view: _showing.View, shown: _showing.View) -> _showing.View:
    """Return the view with what was shown before in the place of what failed this time."""
    before = {entry.restaurant.identifier: entry for entry in shown.entries}
    entries = [
        before.get(entry.restaurant.identifier, entry) if entry.error else entry
        for entry in view.entries
    ]
    return view._replace(entries=entries)


def _redraw(options: Options, view: _showing.View, first: bool) -> None:
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[2J")
    elif not first:
        sys.stdout.write("\n")
    _show(options, view)


def _content(view: _showing.View) -> list[object]:
    """Return of a view what makes it worth drawing again: all but the age of the data."""
    return [
        (entry.restaurant, entry.dishes, entry.error, entry.menu and entry.menu.freshness.stale)
        for entry in view.entries
    ]


def _open_page(options: Options) -> Exit:
    assert options.open is not None
    source = _list_or_nothing(options)
    entry = _choosing.restaurants_called([options.open], source.listing)[0]
    if entry.restaurant not in source.listing.restaurants:
        message = _choosing.unknown_message(options.open, source.listing.restaurants)
        raise Failure(Exit.UNKNOWN_RESTAURANT, message)
    url = entry.restaurant.menu_url or entry.restaurant.homepage
    if not url:
        raise Failure(Exit.NOTHING_FOUND, f"{entry.restaurant.name} has no page")
    import webbrowser  # late: it loads much

    if not webbrowser.open(url):
        raise Failure(Exit.FAILED, f"no browser could be started; the page is {url}")
    _say(f"opened {url}")
    return Exit.FOUND


def _call(options: Options) -> Exit:
    if options.completion:
        sys.stdout.write(_completion.completion_script(options.completion, make_parser()))
        return Exit.FOUND
    if options.open:
        return _open_page(options)
    if options.watch:
        _watch(options)
    view = make_view(options)
    _show(options, view)
    return _outcome(view)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; whatever fails is one line."""
    if arguments is None:
        arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")  # a character the terminal has not is no reason to fail
    relay = os.environ.get("RELAY_URL") or DEFAULT_RELAY
    try:
        options = read_options(arguments)
        relay = options.address.url
        code = _call(options)
        sys.stdout.flush()
        return code
    except Failure as failure:
        return _end(arguments, relay, failure.exit_code, str(failure))
    except KeyboardInterrupt:
        return _end(arguments, relay, Exit.INTERRUPTED, "interrupted")
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        _silence_output()
        return Exit.FOUND
    except OSError as error:  # a full disk
        _silence_output()
        return _end(arguments, relay, Exit.FAILED, f"failed: {error.strerror or error}")
    except Exception as error:  # whatever it is, the user gets one line
        if _is_of_an_interrupt(error):
            return _end(arguments, relay, Exit.INTERRUPTED, "interrupted")
        message = f"failed: {type(error).__name__}: {clean(str(error), 300)}"
        return _end(arguments, relay, Exit.FAILED, message)


def _is_of_an_interrupt(error: BaseException | None) -> bool:
    """True where an error came up only while an interrupt was on its way out: it comes at any
    point, within a lock of the progress bar, too.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _silence_output() -> None:
    """Let what could not be written go nowhere, so that the end of the process says no more."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(arguments: Sequence[str], relay: str, code: Exit, message: str) -> int:
    """Say why the call ends, in a JSON document too where one was asked for."""
    _say(message)
    if "--json" in arguments:
        with suppress(OSError, ValueError, AttributeError):  # there may be no output to write to
            _write_json(_showing.failure_document(clean(relay), message))
    return code


if __name__ == "__main__":
    sys.exit(main())
