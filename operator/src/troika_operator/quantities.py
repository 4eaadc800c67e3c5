"""Kubernetes quantities, compared without the client's parser, which would be all that is used."""

from decimal import Decimal

_SUFFIXES = {
    "m": Decimal("0.001"),
    **{s: Decimal(1000) ** (i + 1) for i, s in enumerate(("k", "M", "G", "T", "P", "E"))},
    **{s: Decimal(1024) ** (i + 1) for i, s in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))},
}


def quantity(text: str) -> Decimal:
    """The number that a quantity such as 500m or 64Gi stands for."""
    number = text.rstrip("imkKMGTPE")
    return Decimal(number) * _SUFFIXES.get(text[len(number) :], Decimal(1))
