"""Problems from data sets of the Hugging Face hub, by their usual short names.

Hub ids, splits and fields as the dataset cards have them. What is downloaded stays in the hub's own cache and is found
there without a network; only `numinamath` is streamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from rstar_cli.errors import SetupError, UsageError, did_you_mean
from rstar_cli.problems.files import Collector
from rstar_cli.records import Problem


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A data set on the hub.

    Attributes:
        hub_id: `owner/name` on the hub, or a folder in the hub's layout.
        splits: our name of a split -> the hub's; the first is the one taken where none is named.
        configs: parts that are read one after the other; None is the only one.
        rename: the hub's field -> the name that `fields` knows it by.
        no_answer: texts that stand in the answer field for "none".
        streaming: read rows as they come, rather than download all first.
    """

    hub_id: str
    splits: Mapping[str, str]
    configs: tuple[str | None, ...] = (None,)
    rename: Mapping[str, str] = field(default_factory=dict)
    no_answer: frozenset[str] = frozenset()
    streaming: bool = False


_TEST_AND_TRAIN = {"test": "test", "train": "train"}
_NUMBERED = {"id": "index"}
"""Their `id` only numbers the rows, so the benchmark's name belongs before it."""

BENCHMARKS: Mapping[str, Benchmark] = {
    "math": Benchmark(
        "EleutherAI/hendrycks_math",
        _TEST_AND_TRAIN,
        configs=(
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        ),
    ),
    "math500": Benchmark("HuggingFaceH4/MATH-500", {"test": "test"}),
    "gsm8k": Benchmark("openai/gsm8k", _TEST_AND_TRAIN, configs=("main",)),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", {"test": "train"}, rename=_NUMBERED),
    "amc23": Benchmark("math-ai/amc23", {"test": "test"}, rename=_NUMBERED),
    "olympiadbench": Benchmark(
        "Hothan/OlympiadBench", {"test": "train"}, configs=("OE_TO_maths_en_COMP",), rename=_NUMBERED
    ),
    "numinamath": Benchmark(
        "AI-MO/NuminaMath-1.5",
        {"train": "train"},
        rename={"problem_type": "subject"},
        no_answer=frozenset({"proof", "notfound"}),
        streaming=True,
    ),
}
"""Every benchmark that is known by name."""


def load_benchmark(name: str, split: str | None = None, limit: int | None = None) -> Iterator[Problem]:
    """Stream the problems of a benchmark that have an answer.

    Args:
        name: a key of `BENCHMARKS`.
        split: `test` or `train`; None takes `test` where there is one.
        limit: stop after so many problems.

    Raises:
        UsageError: an unknown name, or a split that the benchmark lacks.
        SetupError: the hub can't be reached, or hasn't got the data set.
        DataError: a row that is no problem.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"unknown benchmark {name!r}", remedy=did_you_mean(name, list(BENCHMARKS)))
    benchmark = BENCHMARKS[name]
    wanted = split or next(iter(benchmark.splits))
    if wanted not in benchmark.splits:
        raise UsageError(f"{name} has no split {wanted!r}", remedy=did_you_mean(wanted, list(benchmark.splits)))
    collector = Collector(benchmark.hub_id, name, name, keep_first=True)
    return collector.problems(_rows(name, benchmark, benchmark.splits[wanted]), limit)


def _rows(name: str, benchmark: Benchmark, split: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of all configs, numbered through from 1, with fields renamed."""
    numbers = count(1)
    for config in benchmark.configs:
        for row in _load(name, benchmark, config, split):
            renamed = {benchmark.rename.get(key, key): value for key, value in row.items()}
            if str(renamed.get("answer")).lower() in benchmark.no_answer:
                renamed |= {"answer": None, "solution": None}  # nor does its solution end in one
            yield next(numbers), renamed


def _load(name: str, benchmark: Benchmark, config: str | None, split: str) -> Iterator[Mapping[str, object]]:
    """The rows of one config."""
    import datasets
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP client it uses

    try:
        yield from datasets.load_dataset(benchmark.hub_id, config, split=split, streaming=benchmark.streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError, HTTPError) as error:
        what = f"{benchmark.hub_id} ({config})" if config else benchmark.hub_id
        why = " ".join(str(error).split())[:300]
        raise SetupError(
            f"{name}: can't load split {split} of {what} from the hub: {type(error).__name__}: {why}",
            remedy="Check the network and HF_HUB_OFFLINE, or get its file by other means: rstar problems import FILE",
        ) from error
