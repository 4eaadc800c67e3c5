"""The one error that this package raises on purpose, and the check that raises it most."""


class DataError(Exception):
    """A set could not be made; the message names the package and what was expected of it."""


def expect(package: str, what: str, found: int, at_least: int) -> None:
    """Refuse a source that holds less than it did when the rule was written.

    A package that changed its layout would otherwise give an empty or a shrunken set, and a
    benchmark would go on and compare numbers from different data.
    """
    if found < at_least:
        raise DataError(
            f"{package}: expected at least {at_least:,} {what}, found {found:,}; "
            "the package has changed, or the rule that reads it is wrong"
        )
