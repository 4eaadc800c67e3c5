"""What the pod runs, `troika-train [run.json]`: listens for signals, then loads the launcher.

PID 1 gets only the signals that it handles. One that came while modules are still being loaded
would be lost, and the pod would stay until its grace period is over.
"""

import signal
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Launch, or end where a signal came meanwhile."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    from . import launch  # noqa: PLC0415 - the reason for this file

    launch.main(received)


if __name__ == "__main__":
    main()
