"""Why something of a model could not be loaded, in words and with the right class."""

from pathlib import Path

from .errors import ConfigError, StorageError, TrainerError

_NO_CONNECTION = "couldn't connect"
_UNTRUSTED = "trust_remote_code"
"""How transformers puts it; its exceptions are of one type for all reasons."""


def cannot_load(what: str, path: str, error: Exception, *, remedy: str) -> TrainerError:
    """What to raise where `from_pretrained` failed.

    Args:
        what: What was to be loaded, such as "the model".
        path: Directory, or name on the hub.
        error: What transformers raised.
        remedy: What to change where the files are not those that are needed.
    """
    if lacks_directory(path):
        return no_directory(what, path)
    text = str(error)
    if _NO_CONNECTION in text:
        return StorageError(
            f"cannot load {what} from {path}: the hub does not answer, and the cache lacks it",
            "check the network of the pods and HF_ENDPOINT, or put the model on a volume",
        )
    if _UNTRUSTED in text:
        return ConfigError(
            f"cannot load {what} from {path}: it comes with Python code of its own",
            "read that code, and set model.trustRemoteCode: true if it may run",
        )
    first = next(iter(text.strip().splitlines()), type(error).__name__)
    return ConfigError(f"cannot load {what} from {path}: {first[:300]}", remedy)


def lacks_directory(path: str) -> bool:
    """Whether a place on a volume or in the image is not there. transformers takes it for a name on
    the hub then, and says that slashes are wrong in it.
    """
    return path.startswith("/") and not Path(path).is_dir()


def no_directory(what: str, path: str) -> ConfigError:
    """What to say of it."""
    return ConfigError(
        f"cannot load {what} from {path}: there is no such directory",
        "name a directory in save_pretrained layout; a job that makes one is named by pretrainJob "
        "or finetuneJob, and waited for",
    )


def lacks_package(what: str, path: str, error: ImportError, *, remedy: str) -> ConfigError:
    """What to raise where `from_pretrained` needs a package that is not installed.

    Args:
        what: What was to be loaded, such as "the model".
        path: Directory, or name on the hub.
        error: What transformers raised.
        remedy: What to use instead.
    """
    first = str(error).strip().split(". ")[0].splitlines()[0]
    return ConfigError(f"cannot load {what} from {path}: {first[:300]}", remedy)
