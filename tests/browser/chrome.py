"""Chromium without a window, as Debian has it, driven by selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
"""Width and height of the page, CSS pixels."""


@contextmanager
def chrome(profile: Path, *arguments: str) -> Iterator[Chrome]:
    """A browser of its own.

    Args:
        profile: an empty folder for what the browser keeps.
        arguments: further ones of its command line.

    Raises:
        ImportError: there is no selenium.
        FileNotFoundError: there is no Chromium, or no driver of it.
    """
    from selenium import webdriver

    driver, browser = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or browser is None:
        raise FileNotFoundError("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    for argument in ("--force-device-scale-factor=1", "--hide-scrollbars", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


def resize(browser: Chrome, width: int, height: int, *, dark: bool = False) -> None:
    """Give the page a size, in CSS pixels, and a light or a dark look.

    A window has a smallest width, which a phone's lies below; a device's size has none.
    """
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)  # type: ignore[no-untyped-call]
    look = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": look})  # type: ignore[no-untyped-call]
