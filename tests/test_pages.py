"""The built book: every page loads alone, fits a phone, can be used by everyone, and links to what exists."""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

BOOK = Path(__file__).parents[1] / "book"
HTML = BOOK / "_build" / "html"
EXECUTED = BOOK / "_build" / "executed"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
PATIENCE = 20_000  # milliseconds that the browser may take for one thing
CHROMIUM_FLAGS = [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no other host can be reached
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
]
# What a role or a reference leaves in the text when it is not resolved.
UNRESOLVED = ("[?]", "(?)", "??", "{glue:", "{cite", "{term}", "{doc}", "{ref}", "{numref}", "{eq}", "MyST-NB:")

pytestmark = [pytest.mark.book, pytest.mark.skipif(os.environ.get("ASG_SKIP_PAGES") == "1", reason="ASG_SKIP_PAGES=1")]


def documents() -> list[str]:
    """Every document of the table of contents, without suffix, the root first."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


DOCUMENTS = documents()
NOTEBOOKS = [d for d in DOCUMENTS if (BOOK / f"{d}.ipynb").exists() or (EXECUTED / f"{d}.ipynb").exists()]
PAGES = [*DOCUMENTS, "genindex", "search"]


@functools.cache
def soup(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


def article(file: Path) -> Tag:
    """What the authors wrote, without the theme's frame."""
    return soup(file).select_one("article") or soup(file)


@functools.cache
def anchors(file: Path) -> frozenset[str]:
    return frozenset(tag["id"] for tag in soup(file).select("[id]"))


@pytest.fixture(scope="session")
def html() -> Path:
    if not (HTML / "index.html").exists():
        pytest.fail(f"The book is not built ({HTML} has no index.html): run `make book`.", pytrace=False)
    return HTML


@pytest.fixture(params=PAGES)
def page_file(request: pytest.FixtureRequest, html: Path) -> Path:
    file = html / f"{request.param}.html"
    if not file.exists():
        pytest.fail(f"{file} is in the table of contents and not built: run `make book`.", pytrace=False)
    return file


@pytest.fixture(scope="session")
def address(html: Path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def browser(html: Path):
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = os.environ.get("ASG_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.fail(
            "The page tests need Chromium: install it (`apt-get install chromium`), give its path as ASG_CHROMIUM, "
            "or leave these tests out with ASG_SKIP_PAGES=1.",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session", params=WIDTHS)
def context(request: pytest.FixtureRequest, browser: Browser):
    width, height = WIDTHS[request.param]
    made = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
    made.set_default_timeout(PATIENCE)
    yield made
    made.close()


def watch(page: Page, address: str) -> list[str]:
    """Faults that loading a page brings to light, as they happen."""
    faults: list[str] = []

    def on_request(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            faults.append(f"request to another host: {request.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"console {message.type}: {message.text}")

    page.on("request", on_request)
    page.on("console", on_console)
    page.on("response", lambda r: faults.append(f"answered {r.status}: {r.url}") if r.status >= 400 else None)
    page.on("requestfailed", lambda r: faults.append(f"failed request: {r.url}"))
    page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    return faults


def settle(page: Page) -> None:
    """Wait until fonts are loaded, formulas typeset, and what scripts ask for afterwards is on its way."""
    page.evaluate("() => Promise.all([document.fonts.ready, window.MathJax?.startup?.promise]).then(() => true)")
    page.wait_for_timeout(100)


def widest(page: Page) -> list[str]:
    """The elements that stick out of the window to the right, to name in a failure."""
    return page.evaluate(
        """() => [...document.querySelectorAll('main *')]
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('[tabindex="0"]'))
            .slice(0, 5).map(e => e.outerHTML.slice(0, 160))"""
    )


def unfold(page: Page) -> None:
    """Open what is folded, and wait until it has faded in."""
    page.evaluate(
        """async () => {
            document.querySelectorAll('details').forEach(fold => fold.open = true)
            await Promise.all(document.getAnimations().map(animation => animation.finished))
        }"""
    )


def cut(page: Page) -> list[str]:
    """Lines of code that are wider than their box, and on a wide window tables."""
    wide = page.evaluate("innerWidth") >= WIDTHS["desktop"][0]
    return page.evaluate(
        """boxes => [...document.querySelectorAll(boxes)]
            .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.trim().slice(0, 160))""",
        ".bd-article pre" + (", .bd-article .cell_output, .bd-article .pst-scrollable-table-container" if wide else ""),
    )


def violations(page: Page, *rules: str) -> list[str]:
    """Serious and critical violations of axe's rules (all of them, or those named), each with the elements."""
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    return [
        "\n  ".join([f"{v['impact']} {v['id']}: {v['help']}", *(node["html"][:200] for node in v["nodes"][:5])])
        for v in Axe().run(page, options=options).response["violations"]
        if v["impact"] in ("serious", "critical")
    ]


def test_page_loads_alone_fits_and_is_accessible(context: BrowserContext, page_file: Path, address: str, html: Path):
    page = context.new_page()
    try:
        faults = watch(page, address)
        page.goto(address + page_file.relative_to(html).as_posix())
        settle(page)
        assert not faults, "\n".join(faults)

        scroll, window = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert scroll <= window, f"the page is {scroll} px wide in a window of {window}: {widest(page)}"

        unfold(page)
        assert not cut(page)

        grave = violations(page)
        page.evaluate("() => { document.documentElement.dataset.theme = 'dark' }")
        grave += [f"in dark mode, {v}" for v in violations(page, "color-contrast")]
        assert not grave, "\n".join(grave)
    finally:
        page.close()


def test_search_finds_a_word(browser: Browser, address: str):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    try:
        faults = watch(page, address)
        page.goto(address + "search.html?q=guidance")
        page.wait_for_selector("#search-results li")
        assert not faults, "\n".join(faults)
    finally:
        page.close()


def test_images_have_alternative_text(page_file: Path):
    bad = []
    for image in article(page_file).select("img"):
        alt = (image.get("alt") or "").strip()
        if len(alt) < 20 or alt in image.get("src", ""):  # sphinx writes the path where there is no description
            bad.append(f"alt={alt!r}: {image.get('src', '')[:80]}")
    assert not bad, (
        "figures without a description of at least 20 characters (cell metadata mystnb.image.alt):\n" + "\n".join(bad)
    )


def broken(file: Path, html: Path) -> list[str]:
    """Links, images, scripts and sheets of ``file`` that lead to no file or no anchor of the built book."""
    base = "/" + file.relative_to(html).as_posix()
    faults = []
    for tag in soup(file).select("[href], [src]"):
        link = tag.get("href") or tag.get("src") or ""
        if urlsplit(link).scheme or link.startswith("//"):
            continue
        parts = urlsplit(urljoin(base, link))
        target = html / unquote(parts.path).lstrip("/")
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file():
            faults.append(f"no such file: {link}")
        elif target.suffix == ".html" and parts.fragment and unquote(parts.fragment) not in anchors(target):
            faults.append(f"no such anchor: {link}")
    return faults


def test_internal_links_resolve(page_file: Path, html: Path):
    faults = broken(page_file, html)
    assert not faults, "\n".join(faults)


def test_index_leads_to_the_first_page(html: Path):
    refresh = soup(html / "index.html").select_one("meta[http-equiv]")
    target = f"{DOCUMENTS[0]}.html"
    assert refresh is None or refresh["content"].split("url=")[1] == target
    assert (html / target).exists()


def test_nothing_is_unresolved(page_file: Path):
    text = article(page_file)
    outputs = [tag.get_text()[:300] for tag in text.select(".cell_output .traceback, .output_error, .output.traceback")]
    assert not outputs, f"error outputs: {outputs}"
    strings = [
        string
        for string in text.find_all(string=True)
        if not string.find_parent(["pre", "code", "script", "style"]) and not string.find_parent(class_="math")
    ]
    prose = " ".join(" ".join(strings).split())
    left = [
        f"{mark} in …{prose[max(0, place - 60) : place + 60]}…"
        for mark in UNRESOLVED
        if (place := prose.find(mark)) >= 0
    ]
    assert not left, "\n".join(left)
    assert not text.select(".system-message, .problematic"), "sphinx left a system message in the page"


@pytest.mark.parametrize("document", NOTEBOOKS)
def test_notebook_ran_without_errors(document: str, html: Path):
    file = EXECUTED / f"{document}.ipynb"
    assert file.exists(), f"{file} is missing: run `make book`."
    cells = [
        c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()
    ]
    for number, cell in enumerate(cells):
        assert cell["execution_count"], f"code cell {number} was not executed: {''.join(cell['source'])[:100]}"
        errors = [o["evalue"] for o in cell["outputs"] if o["output_type"] == "error"]
        assert not errors, f"code cell {number} failed: {errors}"


def test_whole_book_is_built(html: Path):
    missing = [d for d in DOCUMENTS if not (html / f"{d}.html").exists()]
    assert not missing, f"in the table of contents and not built: {missing}"
