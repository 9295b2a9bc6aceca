"""A real browser without a window: Debian's chromium, driven by selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

SIZES = {"desktop": (1280, 860), "phone": (400, 860)}


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or browser is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    folder = tmp_path_factory.mktemp("browser")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={folder}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(params=sorted(SIZES))
def browser(chromium: Chrome, request: pytest.FixtureRequest) -> Iterator[Chrome]:
    """The browser at a desktop's and at a phone's width; no page may have an error in its console."""
    chromium.set_window_size(*SIZES[request.param])
    yield chromium
    assert chromium.get_log("browser") == []


def visit(browser: Chrome, page: Path) -> None:
    """Open a page from the disk."""
    browser.get(page.as_uri())
