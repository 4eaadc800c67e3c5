"""`PYTHONPATH=tests python -m chaos [--kills 30] [--seed 17]`: kill, resume, compare."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from support.nursery import nursery

from .killing import Chaos


def main() -> None:
    """Print every kill, and whether anything was lost; fail where it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="troika-chaos-") as scratch, nursery() as forked:
        chaos = Chaos(
            Path(scratch),
            steps=options.steps,
            save_every=options.save_every,
            nursery=forked,
            seed=options.seed,
        )
        outcome = chaos.run(options.kills)
    for number, kill in enumerate(outcome.kills, start=1):
        where = "in a save" if kill.in_save else "in the export" if kill.in_export else ""
        print(f"{number:3}  from {kill.resumed_at:4}  to {kill.step:4}  {kill.aim:6}  {where}")
    print(
        f"{len(outcome.kills)} kills (seed {options.seed}), {outcome.in_save} of them in a save, "
        f"{outcome.in_export} in the export, {outcome.resumed} after a resume, "
        f"{outcome.steps} steps, {time.monotonic() - started:.0f} s: final weights "
        f"{'equal bit for bit' if outcome.equal else 'DIFFER'}, "
        f"validation history {'equal' if outcome.history_equal else 'DIFFERS'}"
    )
    fair = outcome.in_save and outcome.in_export and outcome.resumed and not outcome.lost
    sys.exit(0 if fair and outcome.equal and outcome.history_equal else 1)


if __name__ == "__main__":
    main()
