"""Every test of faults is marked so, and leaves no process behind."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.common import all_gone, note_elders
from tests.faults.runs import Whole

_PR_SET_CHILD_SUBREAPER = 36


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("faults")


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """What outlives a run becomes our child; in the end nothing of any run may be left."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    note_elders()
    yield
    all_gone()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run that nothing stopped."""
    return Whole(tmp_path_factory.mktemp("whole"))
