"""Waiting for what other processes do: until a deadline, and with words for what did not come."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


def wait_until(
    look: Callable[[], T | None],
    what: str,
    *,
    seconds: float = 60.0,
    every: float = 0.1,
    seen: Callable[[], Any] | None = None,
) -> T:
    """What `look` gives once that is true.

    Args:
        look: Asked again and again.
        what: It is waited for, as a noun.
        seconds: How long at most.
        every: Seconds between two looks: fewer for a moment that soon is over.
        seen: Tells in place of the last answer how things stand when the time is up.

    Raises:
        AssertionError: it did not come.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(_in_vain(what, seconds, seen() if seen else answer))
        time.sleep(every)


async def until(
    look: Callable[[], Awaitable[T | None]],
    what: str,
    *,
    seconds: float = 30.0,
    seen: Callable[[], Awaitable[Any]] | None = None,
) -> T:
    """The same in an event loop."""
    answer: T | None = None
    try:
        async with asyncio.timeout(seconds):
            while not (answer := await look()):  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.05)
            return answer
    except TimeoutError as error:
        last = await seen() if seen else answer
        raise AssertionError(_in_vain(what, seconds, last)) from error


def _in_vain(what: str, seconds: float, last: object) -> str:
    told = last if last and isinstance(last, str) else repr(last)  # a log is read as it is
    return f"waited {seconds:g} s in vain for {what}; last seen: {told}"
