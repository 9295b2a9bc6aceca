"""How much of `generate`'s time its journal takes: `python -m tests.faults.journal_cost [flags of generate]`."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time

from rstar_cli import cli
from rstar_cli.journal import Journal


def main() -> None:
    """Run `rstar generate` in a new run, the journal's calls timed; prints their share on stdout."""
    spent = {"append": 0.0, "finish": 0.0}
    for name in spent:
        function = getattr(Journal, name)

        def timed(*args: object, name: str = name, function: object = function) -> object:
            begun = time.perf_counter()
            try:
                return function(*args)  # type: ignore[operator]
            finally:
                spent[name] += time.perf_counter() - begun

        setattr(Journal, name, timed)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["rstar", "generate", "--run", f"{folder}/r", *sys.argv[1:]]
        begun = time.perf_counter()
        with contextlib.suppress(SystemExit):
            cli.main()
        seconds = time.perf_counter() - begun
    share = sum(spent.values()) / seconds
    print(f"{share:.2%} of {seconds:.1f} s: append {spent['append']:.3f} s, finish {spent['finish']:.3f} s")


if __name__ == "__main__":
    main()
