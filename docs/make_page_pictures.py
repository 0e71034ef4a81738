"""Draw the pictures of the live page: a real relay under a small load, in Chromium.

    python docs/make_page_pictures.py [FOLDER]

Three pictures after a minute and a half: light, in a narrow window, and dark while the sample menu
API is away. FOLDER: where they go, by default `docs/pictures`. Needs the extra `test` and Chromium.
"""

from __future__ import annotations

import math
import random
import re
import sys
import threading
import time
from pathlib import Path

DOCS = Path(__file__).resolve().parent
SOURCES = DOCS.parent / "python_source_files"
sys.path.insert(0, str(SOURCES))

from playwright.sync_api import Page, expect  # noqa: E402

from sample_menu_api.server import SampleMenuApi  # noqa: E402
from tests.browser_support import Browser  # noqa: E402
from tests.relay_support import RunningRelay, eventually  # noqa: E402

LOAD_S = 90
HEIGHTS = {"light": 1800, "narrow": 1100, "dark": 900}
"""Pixels of a picture from the top of the page: beyond are more of the same rows, and forms."""


def make_load(relay: RunningRelay, until: threading.Event) -> None:
    """Asks for menus, some much more often than others, in waves."""
    chance = random.Random(5)
    names = re.findall(rb'"identifier": ?"([a-z]+)"', relay.get("/restaurant").body)
    paths = ["/restaurant", "/version"] + [f"/restaurant/{name.decode()}" for name in names]
    began = time.monotonic()
    while not until.wait(0.01 + 0.03 * (1 + math.sin((time.monotonic() - began) / 6))):
        place = min(int(chance.expovariate(0.4)), len(paths) - 1)
        relay.get(paths[place] + ("?day=" + str(chance.randrange(500)) if place == 1 else ""))


def take(page: Page, folder: Path, name: str) -> None:
    """Writes a picture of what the page shows."""
    width = page.evaluate("innerWidth")
    size = {"x": 0, "y": 0, "width": width, "height": HEIGHTS[name]}
    page.screenshot(path=str(folder / f"page-{name}.png"), clip=size, full_page=True)


def main(arguments: list[str]) -> int:
    """Draw all pictures into the folder that the arguments name."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        sys.stderr.write("make_page_pictures: takes one argument at most, a folder\n")
        return 2
    folder = Path(arguments[0]) if arguments else DOCS / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    browser, over = Browser(), threading.Event()
    api = SampleMenuApi()
    api.start()
    flags = (
        "--admin",
        "127.0.0.1:0",
        "--workers",
        "2",
        "--ttl",
        "/*=20",
        "--upstream-rate",
        "20/s",
    )
    try:
        with RunningRelay(api.url, *flags) as relay:
            line = re.compile(r"^ +admin +(http://\S+)$", re.MULTILINE)
            eventually(lambda: line.search(relay.log()) is not None, "the admin address")
            url = line.findall(relay.log())[0] + "/"
            load = threading.Thread(target=make_load, args=(relay, over))
            load.start()
            with browser.page(url) as light, browser.page(url, width=360) as narrow:
                with browser.page(url, dark=True) as dark:
                    light.wait_for_timeout(1000 * LOAD_S)
                    take(light, folder, "light")
                    take(narrow, folder, "narrow")
                    api.close()
                    expect(dark.locator("#countdown")).to_be_visible(timeout=60_000)
                    take(dark, folder, "dark")
            over.set()
            load.join()
    finally:
        over.set()
        browser.close()
        api.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
