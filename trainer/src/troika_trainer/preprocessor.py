"""What turns a row's content into numbers: a tokenizer, an image processor, a feature extractor.

It comes with the model, or is made once for a model from scratch; either way it is exported beside
the model. A task names the kind that it needs; the rest of the trainer sees only this interface.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from transformers import PretrainedConfig

from .errors import ConfigError
from .rows import Row
from .runfile import Run

Rows = Callable[[], Iterator[Row]]
"""The training rows, each time that it is called."""


class Preprocessor(Protocol):
    """Any tokenizer, image processor, feature extractor or processor of transformers."""

    def save_pretrained(self, save_directory: Any) -> Any:
        """Write the files that `from_pretrained` reads."""


class Preprocessing(ABC):
    """One kind of preprocessor: how it is loaded, made and told from others."""

    name: str
    """For names of directories."""

    @abstractmethod
    def load(self, path: str, *, trust_remote_code: bool) -> Any:
        """Load it from a directory or the hub.

        Raises:
            ConfigError: there is none.
        """

    def path(self, run: Run) -> str | None:
        """Where the run says that it is: with the model, unless the run names another place."""
        return run.model.path

    def recipe(self, run: Run) -> Any | None:  # noqa: ARG002
        """All that decides what `make` makes, besides the data; None where one is to be loaded."""
        return None

    def make(self, run: Run, rows: Rows) -> Preprocessor:  # noqa: ARG002
        """Make one, from the run and its training rows.

        Raises:
            ConfigError: this kind cannot be made.
        """
        raise ConfigError(f"model.config: a model from scratch brings no {self.name}")

    @abstractmethod
    def fingerprint(self, preprocessor: Any) -> str:
        """A hash of everything that decides what it gives."""

    def model_settings(
        self,
        preprocessor: Any,  # noqa: ARG002
        fields: dict[str, Any],  # noqa: ARG002
        known: PretrainedConfig,  # noqa: ARG002
    ) -> dict[str, Any]:
        """What it implies for the configuration of a model from scratch.

        Args:
            preprocessor: As loaded or made.
            fields: What the run says of the configuration.
            known: The architecture's own defaults.

        Raises:
            ConfigError: the two contradict each other.
        """
        return {}

    def check(self, preprocessor: Any, model: PretrainedConfig, path: str) -> None:  # noqa: B027
        """Whether a model that was loaded fits.

        Raises:
            ConfigError: it does not.
        """
