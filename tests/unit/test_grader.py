"""The grader: own cases, groups, and what becomes of workers that are late, killed or orphaned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_cli.grader import LENIENT, Grader, grade, group_answers
from rstar_cli.grader import grader as grader_module
from rstar_cli.protocols import Grade
from rstar_cli.records import Verdict

CASES = [
    json.loads(line) for line in (Path(__file__).parents[1] / "cases/grader.jsonl").read_text("utf-8").splitlines()
]
ENDLESS = r"\sum_{k=1}^{10^9}\frac{\sin k}{k}"
"""A sum that nobody finishes."""


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


def is_alive(process_id: int) -> bool:
    """Whether a process runs (a zombie doesn't)."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(process_id: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while is_alive(process_id) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(process_id)


@pytest.mark.parametrize("case", CASES, ids=[f"{case['gold'][:20]}|{case['pred'][:20]}" for case in CASES])
def test_case(grader: Grader, case: dict[str, object]) -> None:
    (grade,) = grader.grade([(str(case["gold"]), str(case["pred"]))])
    expected = Verdict.CORRECT if case["label"] else Verdict.INCORRECT
    assert grade.verdict is expected, f"{case['why']}: {grade}"


def test_there_are_cases_of_both_kinds() -> None:
    labels = [case["label"] for case in CASES]
    assert len(CASES) >= 80
    assert min(labels.count(True), labels.count(False)) >= 40


@pytest.mark.parametrize(
    ("gold", "prediction", "stage"),
    [
        (r"\frac{1}{2}", r"\dfrac 12", "number"),
        ("x^2", "x^{2}", "string"),
        ("1/3", "0.33", "number"),
        ("(1,2)", "(1,3)", "structure"),
        (r"\sqrt{8}", r"2\sqrt{2}", "numeric"),
        (r"\sum_{k=1}^{3}k", "6", "numeric"),
        (r"\lim_{x\to 0}\frac{\sin x}{x}", "1", "symbolic"),
        ("7", "9" * 5000, "bounds"),
    ],
)
def test_says_which_stage_decided(grader: Grader, gold: str, prediction: str, stage: str) -> None:
    (grade,) = grader.grade([(gold, prediction)])
    assert grade.decided_by == stage


def test_one_answer() -> None:
    assert grade("1/2", "0.5") == Grade(Verdict.CORRECT, "number")
    assert grade(r"\sqrt{8}", r"2\sqrt{2}") == Grade(Verdict.CORRECT, "numeric")
    assert grade("1/3", "0.33").verdict is Verdict.INCORRECT
    assert grade("1/3", "0.33", LENIENT).verdict is Verdict.CORRECT
    assert grade("1", None).verdict is Verdict.NO_ANSWER


def test_nothing_to_grade(grader: Grader) -> None:
    assert grader.grade([]) == []
    assert grader.grade([("1", None), ("1", " \n")]) == [Grade(Verdict.NO_ANSWER, "none")] * 2
    assert grader.grade([("", "1")]) == [Grade(Verdict.ERROR, "no_gold")]


def test_a_gold_out_of_bounds_is_an_error_not_an_incorrect_answer(grader: Grader) -> None:
    assert grader.grade([("x+" * 2000 + "1", "7")]) == [Grade(Verdict.ERROR, "bounds")]
    assert grader.grade([("10^{10^{10^{10}}}", r"\sqrt{2}")]) == [Grade(Verdict.ERROR, "bounds")]


def test_order_and_repetition_of_a_batch(grader: Grader) -> None:
    pairs: list[tuple[str, str | None]] = [
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("1", "2"),
        ("1", None),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\sqrt{8}", r"2\sqrt{3}"),
    ]
    verdicts = [grade.verdict for grade in grader.grade(pairs)]
    assert verdicts == ["correct", "incorrect", "no_answer", "correct", "incorrect"]


def test_arguments_out_of_range() -> None:
    for workers, timeout in ((0, 5.0), (1, 0.0)):
        with pytest.raises(ValueError, match="workers must be"):
            Grader(workers=workers, timeout=timeout)


# --- nothing of an answer is run -----------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "__import__('pathlib').Path('{path}').touch()",
        r"\text{{__import__('pathlib').Path('{path}').touch()}}",
        r"\sum_{{k=1}}^{{3}} __import__('pathlib').Path('{path}').touch()",
        r"\operatorname{{open('{path}','w')}}(1)",
        "[open('{path}','w')]",
        "$(touch {path})",
        "x=open('{path}','w')",
    ],
)
def test_code_in_an_answer_is_not_run(tmp_path: Path, grader: Grader, template: str) -> None:
    text = template.format(path=tmp_path / "canary")
    for gold, prediction in ((r"\frac{1}{2}", text), (text, r"\sqrt{2}"), (text, text + "+0")):
        (grade,) = grader.grade([(gold, prediction)])
        assert grade.verdict is not Verdict.CORRECT
    assert list(tmp_path.iterdir()) == []


def test_sympy_is_disarmed() -> None:
    script = """
from rstar_cli.grader.symbolic import disarm
disarm()
import sympy
assert sympy.sympify("0.1") == sympy.Rational(1, 10)
for text in ("1+1", "x", "__import__('os')", "print(1)"):
    for read in (sympy.sympify, sympy.Number, sympy.parsing.sympy_parser.parse_expr):
        try:
            read(text)
        except (ValueError, sympy.SympifyError):
            continue
        raise SystemExit(f"{read} took {text}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "(A)" * 200 + "x",
        "(A) " * 480,
        "A. B. " * 300,
        r"x\ne " + ",".join(map(str, range(400))),
        "(" * 1900,
        "（" * 900,
    ],
)
def test_hostile_answers_are_told_quickly_without_a_worker(text: str) -> None:
    with Grader() as grader:
        start = time.monotonic()
        for pair in (("7", text), (text, "7"), (text, text + " ")):
            grader.grade([pair])
        assert time.monotonic() - start < 10, "each takes milliseconds on a quiet machine"


CASES_BY_ROOTS = r"\begin{cases}1&x<\sqrt2\\2&x>\sqrt3\\3&%s\end{cases}"


@pytest.mark.parametrize(
    ("gold", "prediction", "verdict"),
    [
        (r"\text{otherwise}", r"\sqrt2\le x\le\sqrt3", "correct"),
        (r"\sqrt2\le x\le\sqrt3", r"\text{otherwise}", "correct"),
        (r"\text{otherwise}", r"\sqrt2<x\le\sqrt3", "incorrect"),
    ],
)
def test_what_is_left_by_other_cases(grader: Grader, gold: str, prediction: str, verdict: str) -> None:
    (grade,) = grader.grade([(CASES_BY_ROOTS % gold, CASES_BY_ROOTS % prediction)])
    assert grade.verdict == verdict


def test_cases_with_bounds_that_have_no_order(grader: Grader) -> None:
    gold = r"\begin{cases}1&x<a\\2&x>b\\3&\text{otherwise}\end{cases}"
    assert grader.grade([(gold, gold.replace("<", "< "))])[0].verdict is Verdict.CORRECT
    assert grader.grade([(gold, gold.replace("1&", "4&"))])[0].verdict is Verdict.INCORRECT


def test_an_error_of_ours_loses_no_other_grade(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise TypeError("a bug")

    monkeypatch.setattr(grader_module.Comparison, "equal", fail)
    with Grader() as grader:
        grades = grader.grade([("1", "2"), ("3", "3")])
    assert grades == [Grade(Verdict.ERROR, "TypeError"), Grade(Verdict.CORRECT, "string")]


@pytest.mark.parametrize(
    "text", [r"\begin{cases}\end{cases}", "-" * 900, "1*" * 900 + "1", "½" * 1900, "\x00", "\ud800"]
)
def test_odd_texts_raise_nothing(grader: Grader, text: str) -> None:
    for pair in (("1", text), (text, "1")):
        assert grader.grade([pair])[0].verdict is not Verdict.CORRECT


@pytest.mark.skipif(sys.platform != "linux", reason="relies on the parent-death signal")
def test_a_busy_worker_dies_with_its_parent() -> None:
    script = f"""
import threading, time
from rstar_cli.grader import Grader
grader = Grader(timeout=60)
grader.grade([("sqrt(8)", "2*sqrt(2)")])
print(*grader.worker_ids, flush=True)
grader.grade([("7", {ENDLESS!r})])
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    assert is_alive(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until_gone(worker)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal has it: a shell that starts the tests with `&` has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_batch_leaves_no_stale_answer() -> None:
    with Grader(timeout=30.0) as grader:
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        main = threading.main_thread().ident
        threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            grader.grade([("7", ENDLESS)])
        assert grader.worker_ids == ()
        assert grader.grade([(r"\sqrt{12}", r"2\sqrt{3}")])[0].verdict is Verdict.CORRECT


def test_results_are_cached_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grader_module, "_CACHE_SIZE", 3)
    with Grader() as grader:
        first = grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        grader.close()
        assert grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")]) == first
        assert grader.worker_ids == (), "a known pair needs no worker"
        grader.grade([("1", str(i)) for i in range(10)])
        grader.grade([(r"\sqrt{8}", r"2\sqrt{2}")])
        assert len(grader.worker_ids) == 1, "the oldest pair was forgotten"


def test_a_worker_outlives_the_thread_that_started_it() -> None:
    with Grader() as grader:
        thread = threading.Thread(target=grader.grade, args=([(r"\sqrt{8}", r"2\sqrt{2}")],))
        thread.start()
        thread.join()
        (worker,) = grader.worker_ids
        assert not wait_until_gone(worker, 0.3)
        assert grader.grade([(r"\sqrt{12}", r"2\sqrt{3}")])[0].verdict is Verdict.CORRECT
        assert grader.worker_ids == (worker,)


def test_one_grader_for_several_threads(grader: Grader) -> None:
    outcomes: dict[int, Verdict] = {}

    def work(n: int) -> None:
        (grade,) = grader.grade([(rf"\sqrt{{{n}}}", rf"{n}/\sqrt{{{n}}}")])
        outcomes[n] = grade.verdict

    threads = [threading.Thread(target=work, args=(n,)) for n in (2, 3, 5, 6, 7, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes.values()) == {Verdict.CORRECT}
    assert len(outcomes) == 6


# --- groups --------------------------------------------------------------------------------


def test_equal_answers_share_a_group(grader: Grader) -> None:
    answers = ["1/2", "0.5", None, r"\frac{2}{4}", "7", r"\sqrt{2}/2", r"\frac{1}{\sqrt{2}}", " ", "7.0", "x=7"]
    assert group_answers(answers, grader) == [0, 0, None, 0, 1, 2, 2, None, 1, 1]


def test_groups_without_a_grader() -> None:
    assert group_answers(["1", "2", "1.0", "3"]) == [0, 1, 0, 2]


# --- the command ---------------------------------------------------------------------------


def test_lines_are_answered_while_the_input_stays_open() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rstar_cli.grader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write('{"gold": "1/2", "pred": "0.5"}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline()) == {"equal": True, "verdict": "correct", "decided_by": "number"}
    process.stdin.write('{"gold": "1/2", "pred": "2"}\n')
    process.stdin.close()
    assert json.loads(process.stdout.readline())["equal"] is False
    assert process.wait(timeout=10) == 0
    process.stdout.close()
