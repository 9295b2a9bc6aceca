"""The grader's workers: time limits, kills, what is left behind."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from rstar_cli.grader import Grader
from rstar_cli.protocols import Grade
from rstar_cli.records import Verdict
from tests.unit.test_grader import ENDLESS, is_alive, wait_until_gone


def test_cheap_cases_start_no_worker() -> None:
    with Grader() as grader:
        grader.grade([("1/2", "0.5"), ("x", "$x$"), ("1", "2"), ("(1,2)", "(1,3)")])
        assert grader.worker_ids == ()


def test_a_late_answer_is_a_timeout_and_the_others_go_on() -> None:
    with Grader(timeout=0.8) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        (worker,) = grader.worker_ids
        start = time.monotonic()
        grades = grader.grade([("7", ENDLESS), (r"\sqrt{12}", r"2\sqrt{3}")])
        assert [grade.verdict for grade in grades] == [Verdict.TIMEOUT, Verdict.CORRECT]
        assert time.monotonic() - start < 10
        assert worker in grader.worker_ids, "a late comparison ends, its worker goes on"


def test_two_workers_wait_side_by_side() -> None:
    with Grader(workers=2, timeout=0.8) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt{18}", r"3\sqrt{2}")])
        grades = grader.grade([("7", ENDLESS), ("8", ENDLESS), (r"\sqrt{12}", r"2\sqrt{3}")])
        assert sorted(grade.verdict for grade in grades) == ["correct", "timeout", "timeout"]


def test_a_worker_killed_in_the_middle_is_an_error() -> None:
    with Grader(timeout=20.0) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        (victim,) = grader.worker_ids
        threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
        assert grader.grade([("7", ENDLESS)]) == [Grade(Verdict.ERROR, "crash")]
        assert grader.grade([(r"\sqrt{12}", r"2\sqrt{3}")])[0].verdict is Verdict.CORRECT


def test_a_worker_killed_between_cases_is_replaced() -> None:
    with Grader() as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        (victim,) = grader.worker_ids
        os.kill(victim, signal.SIGKILL)
        assert wait_until_gone(victim)
        assert grader.grade([(r"\sqrt{12}", r"2\sqrt{3}")])[0].verdict is Verdict.CORRECT


def test_close_leaves_nothing_behind_and_can_be_undone() -> None:
    grader = Grader()
    grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
    (worker,) = grader.worker_ids
    grader.close()
    assert not is_alive(worker)
    assert grader.worker_ids == ()
    grader.close()
    assert grader.grade([(r"\sqrt{12}", r"2\sqrt{3}")])[0].verdict is Verdict.CORRECT
    grader.close()


def children_of(process_id: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_comparison_killed_from_outside_is_no_timeout_and_is_not_remembered() -> None:
    with Grader(workers=1) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        (child,) = children_of(*grader.worker_ids)
        os.kill(child, signal.SIGKILL)
        assert grader.grade([(r"\sqrt{18}", r"3\sqrt{2}")]) == [Grade(Verdict.ERROR, "crash")]
        assert grader.grade([(r"\sqrt{18}", r"3\sqrt{2}")])[0].verdict is Verdict.CORRECT


def test_close_ends_what_is_graded_in_other_threads() -> None:
    grader = Grader(workers=2, timeout=20.0)
    told: list[Grade] = []
    endless = [("7", ENDLESS + f"+{n}") for n in range(6)]
    thread = threading.Thread(target=lambda: told.extend(grader.grade(endless)))
    thread.start()
    time.sleep(0.5)
    grader.close()
    thread.join(60)
    assert not thread.is_alive()
    assert told == [Grade(Verdict.ERROR, "crash")] * 6
    assert grader.worker_ids == ()


def test_many_open_files_are_no_obstacle() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"only {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Grader(workers=1) as grader:
            assert grader.grade([(r"\sqrt{12}", r"2\sqrt{3}")])[0].verdict is Verdict.CORRECT
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
