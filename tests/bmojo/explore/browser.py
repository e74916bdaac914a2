"""A page of the explorer in headless Chromium, moved as a hand would."""

from __future__ import annotations

import time
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page

MOVE = """settings => { for (const [id, value] of Object.entries(settings)) {
const part = document.getElementById(id); part.value = value;
part.dispatchEvent(new Event("input", { bubbles: true })); } }"""


class Opened:
    """A page that is open, with all that it complained about or asked a network for."""

    def __init__(self, browser: Browser, path: Path, **options) -> None:
        self.context: BrowserContext = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(180_000)  # milliseconds; a machine may be busy
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        assert self.page.evaluate("explorer.updates") == 1

    def settle(self, before: int) -> dict:
        """Wait for the page's next update; its numbers (`wait_for_function` would need `eval`)."""
        until = time.monotonic() + 30
        while self.page.evaluate("explorer.complete") <= before:
            assert time.monotonic() < until, "the page did not answer"
            time.sleep(0.01)
        return self.page.evaluate("explorer.numbers")

    def choose(self, **settings: int | str) -> dict:
        before = self.page.evaluate("explorer.updates")
        self.page.evaluate(MOVE, settings)
        return self.settle(before)

    def press(self, key: str) -> dict:
        before = self.page.evaluate("explorer.updates")
        self.page.keyboard.press(key)
        return self.settle(before)

    def click(self, selector: str) -> dict:
        before = self.page.evaluate("explorer.updates")
        self.page.click(selector)
        return self.settle(before)

    def close(self) -> None:
        """No complaint, and nothing asked of a network."""
        self.context.close()
        assert not self.complaints
        assert [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))] == []
