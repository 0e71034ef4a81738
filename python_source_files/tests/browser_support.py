"""The system's Chromium, driven by Playwright, for tests of pages on loopback.

with Browser() as browser, browser.page("http://127.0.0.1:8001/") as page: ...
"""

from __future__ import annotations

import contextlib
import shutil
import unittest
from collections.abc import Iterator

from playwright.sync_api import Page, Playwright, Request, sync_playwright

FLAGS = (
    "--no-sandbox",  # CI is root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # It asks hosts of its maker for nothing.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

PATIENCE_MS = 20_000.0


class Browser:
    """A running Chromium."""

    def __init__(self) -> None:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        if path is None:
            raise unittest.SkipTest("needs Chromium: apt-get install chromium")
        self._playwright: Playwright = sync_playwright().start()
        try:
            self._chromium = self._playwright.chromium.launch(
                executable_path=path, args=list(FLAGS)
            )
        except BaseException:
            self._playwright.stop()
            raise

    def close(self) -> None:
        """Ends it."""
        self._chromium.close()
        self._playwright.stop()

    @contextlib.contextmanager
    def page(
        self,
        url: str,
        width: int = 1200,
        dark: bool = False,
        calm: bool = False,
        may_err: tuple[str, ...] = (),
    ) -> Iterator[Page]:
        """The page at `url` in a window and a session of its own; `calm`: as little motion as
        possible. Raises AssertionError where it asks another host for something, or complains of
        something in which none of `may_err` stands.
        """
        context = self._chromium.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce" if calm else "no-preference",
            # axe is put into pages from outside.
            bypass_csp=False,
        )
        context.set_default_timeout(PATIENCE_MS)
        complaints: list[str] = []
        foreign: list[str] = []

        def look_at(request: Request) -> None:
            if not request.url.startswith((url, "data:")):
                foreign.append(request.url)

        try:
            page = context.new_page()
            page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
            page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
            page.on("request", look_at)
            page.goto(url)
            yield page
            left = [text for text in complaints if not any(part in text for part in may_err)]
            assert not left, left
            assert not foreign, foreign
        finally:
            context.close()
