"""A real browser for pages that ekd writes: headless chromium, driven by selenium; a test skips where one is missing.

`from browser import browser, complaints, look, open_page, screenshot`; `browser` is the fixture.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DESKTOP, PHONE = (1280, 900), (390, 844)  # CSS pixels


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A selenium driver; `driver.execute_script`, `find_elements` and ActionChains work as selenium documents them."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'ekd[dev]'")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # chromium refuses its sandbox to root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


def open_page(driver: Any, page: Path) -> None:
    """Opens the file from disk, as a reader does, and forgets what an earlier page complained about."""
    driver.get_log("browser")
    driver.get(page.resolve().as_uri())


def complaints(driver: Any) -> list[str]:
    """What the console has said since `open_page`, warnings and errors; a sound page says nothing."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def look(driver: Any, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
    """The window's size in CSS pixels (PHONE: as a phone, by touch) and the colour scheme that the reader prefers."""
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def too_wide(driver: Any) -> int:
    """CSS pixels by which the page is wider than its window: 0 where nothing makes a reader scroll sideways."""
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(driver.execute_script(script))


def screenshot(driver: Any, file: Path, *, whole: bool = True) -> Path:
    """A PNG of the whole page, or of the window only."""
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
    file.write_bytes(base64.b64decode(shot["data"]))
    return file
