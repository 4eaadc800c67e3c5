"""One rank of a run: `torchrun --nproc-per-node 2 -m troika_trainer run.json`."""

import os
import sys

from . import errors, logs, runfile
from .bar import Bar
from .place import Place
from .shutdown import StopSignal
from .telemetry import Telemetry


def main() -> None:
    """Read the run, show a status, then load torch and train."""
    place = Place.of(os.environ)
    terminal = logs.configure(place)
    with errors.reported(place) as ending:
        stop = StopSignal(ending).install()
        run = runfile.read_run(runfile.find_run_file(sys.argv[1:]))
        bar = Bar(terminal) if terminal and place.is_first else None
        telemetry = Telemetry(kind=run.kind, name=run.name, place=place, bar=bar).serve()
        ending.status = telemetry.status
        runfile.set_environment(run)
        runfile.limit_caches_of_shapes()
        # Importing torch and transformers takes seconds: by now the status says Loading.
        from .session import train  # noqa: PLC0415

        train(run, place, telemetry, stop)


if __name__ == "__main__":
    main()
