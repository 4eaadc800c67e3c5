"""`PYTHONPATH=tests python -m bench.trainer [--only WORD]`: print the table, write the rows."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.table import Row, line, publish


def main() -> None:
    """Every comparison, or those whose name holds a word."""
    # The sides import this file too, and one of them wants to be there before torch.
    from .comparisons import Bench

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the name of a comparison")
    parser.add_argument("--list", action="store_true", help="the names, and stop")
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as folder:
        bench = Bench(Path(folder))
        every: list[Callable[[], Iterator[Row]]] = [
            bench.mlm,
            bench.clm,
            bench.reviews,
            bench.fortunes,
            bench.lora,
            bench.exporter,
            bench.loss,
            bench.compiled,
            bench.gpu,
        ]
        for comparison in every:
            if options.list:
                print(f"{comparison.__name__:10}{(comparison.__doc__ or '').splitlines()[0]}")
            elif options.only in comparison.__name__:
                for row in comparison():
                    print(line(row), file=sys.stderr, flush=True)
                    rows.append(row)
    sys.exit(0 if options.list or publish("trainer", rows) else 1)


if __name__ == "__main__":
    main()
