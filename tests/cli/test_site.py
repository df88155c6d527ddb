"""The site of the documents: built without a warning, loads nothing from elsewhere, and its search finds something."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import browser, complaints, look  # noqa: F401 (browser is a fixture)

ROOT = Path(__file__).parents[2]
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


class Loaded(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        word, given = LOADED.get(tag), dict(attrs)
        if word in given and given.get("rel") not in ("prev", "next", "canonical"):
            self.found.append(given[word])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocstrings", reason="the site's tools are not installed: pip install 'ekd[site]'")
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_document_is_a_page(site):
    documents = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    pages = {page.relative_to(site) for page in site.rglob("*.html")}
    assert documents | {Path("index.html"), Path("contributing.html"), Path("changes.html")} <= pages
    assert "Selective knowledge distillation" in (site / "index.html").read_text()


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        reader = Loaded()
        reader.feed(page.read_text())
        assert reader.found, page
        for name in reader.found:
            if page.name == "404.html":
                name = name.lstrip("/")
            file = (page.parent / name.partition("?")[0].partition("#")[0]).resolve()
            assert file.is_file() and file.is_relative_to(site), f"{page.name}: {name}"
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text() and "@import" not in style.read_text(), style


def test_links_of_github_are_links_of_the_site(site):
    first = (site / "index.html").read_text()
    assert 'href="methods.html"' in first and "docs/methods.md)" not in first and 'href="docs/' not in first
    assert 'href="contributing.html' in first
    dashboard = (site / "dashboard.html").read_text()
    assert "ekd/dashboard/" in dashboard and '.py"' not in dashboard, "code is no page"


def test_docstrings_are_in_the_reference(site):
    shown = (site / "api.html").read_text()
    for word in ("ekd.store.store.Store.append", "ekd.session.notebook.compose", "Q linear between ranks", "log_norm"):
        assert word in shown, word


def test_a_bar_in_the_code_of_a_table_is_a_bar(site):
    assert r"\|" not in (site / "methods.html").read_text().partition("<article")[2]


def test_the_search_finds_a_page_and_the_console_is_silent(site, browser):  # noqa: F811
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        look(browser)
        browser.get_log("browser")
        browser.get(f"http://127.0.0.1:{server.server_port}/index.html")
        browser.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("percentile")
        hits = WebDriverWait(browser, 20).until(
            lambda driver: driver.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
        )
        assert any("methods.html" in hit.get_attribute("href") for hit in hits)
        assert complaints(browser) == []
    finally:
        server.shutdown()
        server.server_close()
