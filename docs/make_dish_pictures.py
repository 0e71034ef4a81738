"""Draw the pictures of the dish tool's page: real output of real calls, as SVG.

    python docs/make_dish_pictures.py [FOLDER]

Each picture is one call of the tool as a child process on a pseudo-terminal, against the sample
menu API on a fixed day (one of them through a relay whose upstream has gone); rich turns what
arrived on the terminal into SVG. FOLDER: where the pictures go, by default `docs/pictures`.
"""

from __future__ import annotations

import datetime
import fcntl
import io
import os
import pty
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent
SOURCES = DOCS.parent / "python_source_files"
sys.path.insert(0, str(SOURCES))

from rich.console import Console  # noqa: E402
from rich.text import Text  # noqa: E402

from sample_menu_api.server import SampleMenuApi  # noqa: E402

SCRIPT = str(SOURCES / "dish_shell_tool" / "list_dishes.py")
DAY = datetime.date(2026, 3, 5)
LONGEST_CALL_S = 60
# rich's pictures name a font on a host of the network; a picture should need nothing but itself.
_FONT_FILES = re.compile(r"@font-face\s*\{[^}]*\}\s*")


class Picture(NamedTuple):
    """One picture: its file, the call that it shows, how wide the terminal is."""

    name: str
    arguments: str
    columns: int


PICTURES = (
    Picture("list", "", 80),
    Picture("find", "--find artsoppa kottbullar --near 59.35,18.02", 80),
    Picture("narrow", "--restaurant kopparlyktan angpannan --vegetarian", 42),
    Picture("unknown", "--restaurant koparlyktan", 80),
)
STALE = Picture("stale", "--restaurant kopparlyktan angpannan", 80)


def terminal_output(command: list[str], environment: dict[str, str], columns: int) -> str:
    """Return what `command` writes to a terminal of that width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    parts = []
    try:
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # how Linux says that nobody writes any more
                break
            if not part:
                break
            parts.append(part)
    finally:
        os.close(master)
        process.wait(LONGEST_CALL_S)
    return b"".join(parts).decode()


def draw(picture: Picture, relay: str, home: str) -> str:
    """Return the SVG of one call."""
    command = [sys.executable, SCRIPT, *shlex.split(picture.arguments)]
    environment = {"PATH": os.environ["PATH"], "HOME": home, "RELAY_URL": relay}
    environment.update(TERM="xterm-256color", TZ="Europe/Stockholm", LANG="C.UTF-8")
    written = terminal_output(command, environment, picture.columns)
    screen = Console(record=True, width=picture.columns, file=io.StringIO())
    screen.print(Text(f"$ list-dishes {picture.arguments}".rstrip(), style="bold"))
    screen.print(Text.from_ansi(written.replace("\r\n", "\n").rstrip("\n")))
    svg = screen.export_svg(title="list-dishes", unique_id=f"dishes-{picture.name}")
    return _FONT_FILES.sub("", svg)


def draw_stale(picture: Picture, home: str) -> str:
    """Return the SVG of a call through a relay whose upstream has gone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        relay = f"http://127.0.0.1:{free.getsockname()[1]}"
    with SampleMenuApi(today=DAY) as api:
        settings = {"RELAY_UPSTREAM": api.url, "RELAY_TTL": "/*=1", "RELAY_CACHE": "memory://"}
        environment = {"PATH": os.environ["PATH"], "HOME": home, **settings}
        started = subprocess.run(
            [sys.executable, SCRIPT, "--relay", relay, "--start", "--all"],
            env=environment,
            capture_output=True,
            check=True,
            text=True,
            timeout=LONGEST_CALL_S,
        )
    process = re.search(r"\(process (\d+),", started.stderr)
    assert process, started.stderr
    try:
        time.sleep(2)  # what the relay keeps is fresh for a second
        return draw(picture, relay, home)
    finally:
        os.kill(int(process.group(1)), signal.SIGTERM)


def _write(folder: Path, picture: Picture, svg: str) -> None:
    (folder / f"dishes-{picture.name}.svg").write_text(svg, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Draw all pictures into the folder that the arguments name."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        sys.stderr.write("make_dish_pictures: takes one argument at most, a folder\n")
        return 2
    folder = Path(arguments[0]) if arguments else DOCS / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    with SampleMenuApi(today=DAY) as api, tempfile.TemporaryDirectory() as home:
        for picture in PICTURES:
            svg = draw(picture, api.url, home)
            _write(folder, picture, svg)
        _write(folder, STALE, draw_stale(STALE, home))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
