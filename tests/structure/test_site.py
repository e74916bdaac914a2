"""The built documentation in a browser: pages open, formulas and pictures are there, search finds."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser

import pytest

from tests.source import ROOT

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("myst_nb")

pytestmark = pytest.mark.slow
PAGES = ("index", "start", "howto/csv", "derivations/ho_kalman", "api/bmojo", "comparison", "kernels")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of the pages; cells are not run."""
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, str(ROOT / "docs" / "build.py"), "--unrun", "--out", str(folder)]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def site(built):
    """Where the pages are served."""
    handler = functools.partial(Quiet, directory=str(built))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def browser():
    place = shutil.which("chromium") or shutil.which("google-chrome")
    assert place, "no Chromium: apt-get install chromium"
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=place,
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser, request):
    opened = browser.new_page(**getattr(request, "param", {}))
    said: list[str] = []
    opened.on("console", lambda told: said.append(told.text) if told.type == "error" else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("requestfailed", lambda asked: said.append(f"missing: {asked.url}"))
    yield opened
    opened.close()
    assert said == []


class Words(HTMLParser):
    """What a page says, less its code and formulas."""

    ASIDE = ("pre", "code", "script", "style", "math", "svg", "head")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said, self.aside = "", 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.aside += tag in self.ASIDE

    def handle_endtag(self, tag):
        self.aside -= tag in self.ASIDE

    def handle_data(self, data):
        if not self.aside:
            self.said += data


def test_no_page_shows_its_own_markup(built):
    """A formula broken where a line begins with a minus turns into a list; a row of a table into dashes."""
    mark = re.compile(r".{0,40}(?:\$|\\[a-zA-Z]{2}|\|\s*\||\]\().{0,40}")
    pages = [page for page in sorted(built.rglob("*.html")) if "_sources" not in page.parts]
    left = {page.name: mark.findall(Words(page.read_text("utf-8")).said) for page in pages}
    assert len(pages) > 60
    assert {name: found for name, found in left.items() if found} == {}


@pytest.mark.parametrize("page", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 800}}],
                         ids=["light", "dark", "narrow"], indirect=True)  # fmt: skip
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_an_error(page, site, name):
    assert page.goto(f"{site}/{name}.html").status == 200
    assert page.locator("h1").first.is_visible()
    broken = page.evaluate(
        "[...document.images].filter(i => i.offsetParent && !(i.complete && i.naturalWidth)).map(i => i.src)"
    )
    assert broken == []
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 1, "the page has to be moved sideways"


def test_formulas_are_set(page, site):
    page.goto(f"{site}/derivations/ho_kalman.html")
    formulas = page.locator("math")
    assert formulas.count() > 10
    assert all(formulas.nth(i).bounding_box()["height"] > 5 for i in range(5))
    assert "$$" not in page.locator("article").inner_text()


def test_search_finds_a_method(page, site):
    page.goto(f"{site}/search.html?q=ssarx")
    page.wait_for_selector("#search-results li")
    assert any("ssarx" in text.lower() for text in page.locator("#search-results li").all_inner_texts())


def test_every_link_inside_leads_somewhere(page, site):
    seen: set[str] = set()
    for name in ("index", "start", "contributing", "howto/csv"):
        page.goto(f"{site}/{name}.html")
        links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")
        seen |= {link.split("#")[0] for link in links if link.startswith(site)}
    lost = [link for link in sorted(seen) if page.request.get(link).status != 200]
    assert lost == []
