"""Names of child objects: bounded, readable, and never the same for two jobs.

The kind's short name stands in every name, because a PretrainJob and a FinetuneJob of one namespace
may share theirs (`bert` and `bert` become `bert-ptj-a0` and `bert-ftj-a0`). It stands at the end,
where no job name can imitate it. A name that is no DNS label of moderate length is cut and gets a
hash of the whole name.
"""

import hashlib

MAX_LABEL = 63
MAX_STEM = 46
"""A host name is STEM-ptj-aNNNNN-IIII and has 63 characters at most."""


def digest(text: str, length: int = 8) -> str:
    """A short hash for names; collisions matter only between objects of one namespace."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def stem(name: str) -> str:
    """The job's name if it can stand in a host name and a Service's name, else a form that can."""
    label = name.replace(".", "-")
    starts_with_letter = label[:1].isalpha()
    if label == name and starts_with_letter and len(label) <= MAX_STEM:
        return label
    # Service names start with a letter (RFC 1035), which a job's name need not.
    lead = label if starts_with_letter else f"j-{label}"
    return f"{lead[: MAX_STEM - 9]}-{digest(name)}"


def label_value(name: str) -> str:
    """The job's name as the value of a label."""
    return name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 9]}-{digest(name)}"


def service(short: str, name: str) -> str:
    """Headless Service of the job; `short` is the kind's short name."""
    return f"{stem(name)}-{short}"


def attempt(short: str, name: str, number: int) -> str:
    """Job and PodGroup of one attempt."""
    return f"{stem(name)}-{short}-a{number}"


def run_config(short: str, name: str, content: str) -> str:
    """ConfigMap with run.json: named by its content, because it is immutable."""
    return f"{stem(name)}-{short}-run-{digest(content)}"
