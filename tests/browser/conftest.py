"""A browser for all tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chrome import SIZES, chrome, resize

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests."""
    pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(chrome(tmp_path_factory.mktemp("browser")))
        except FileNotFoundError as missing:
            pytest.skip(str(missing))
        yield opened


@pytest.fixture(params=sorted(SIZES))
def browser(chromium: Chrome, request: pytest.FixtureRequest) -> Iterator[Chrome]:
    """The browser at a desktop's and at a phone's width; no page may have an error in its console."""
    resize(chromium, *SIZES[request.param])
    yield chromium
    assert chromium.get_log("browser") == []


def visit(browser: Chrome, page: Path) -> None:
    """Open a page from the disk."""
    browser.get(page.as_uri())
