"""A pod that is deleted while its modules are loaded ends at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

from troika_api.contract import ExitCode

SIGNALLED_WHILE_LOADING = """
import os, signal, sys
from troika_trainer import entry

class Finder:
    def find_spec(self, name, *_):
        if name == "troika_trainer.launch":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
entry.main()
"""


def test_a_signal_while_modules_are_loaded_is_not_lost(tmp_path: Path) -> None:
    word = tmp_path / "word"
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED_WHILE_LOADING],
        env={**os.environ, "TROIKA_TERMINATION_LOG": str(word)},
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.TERMINATED
    assert json.loads(word.read_text())["outcome"] == "Terminated"
