"""The work queue, with time in our hands."""

import asyncio

from troika_operator.queue import WorkQueue


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def queue() -> tuple[WorkQueue[str], Clock]:
    clock = Clock()
    return WorkQueue(clock), clock


def drained(keys: WorkQueue[str]) -> list[str]:
    found = []
    while (key := keys.take()) is not None:
        found.append(key)
        keys.done(key)
    return found


def test_keys_come_in_their_order_and_each_once() -> None:
    keys, _ = queue()
    for key in "abab":
        keys.add(key)
    assert len(keys) == 2
    assert drained(keys) == ["a", "b"]


def test_a_key_is_not_looked_at_twice_at_the_same_time_but_again_afterwards() -> None:
    keys, _ = queue()
    keys.add("a")
    assert keys.take() == "a"
    keys.add("a")
    keys.add("a")
    assert keys.take() is None
    keys.done("a")
    assert drained(keys) == ["a"]


def test_a_delayed_key_comes_when_it_is_due() -> None:
    keys, clock = queue()
    keys.add("a", 10)
    assert keys.take() is None
    assert keys.next_due() == 10
    clock.now = 9.9
    assert keys.take() is None
    clock.now = 10.0
    assert drained(keys) == ["a"]
    assert keys.next_due() is None


def test_of_two_delays_the_shorter_counts() -> None:
    keys, clock = queue()
    keys.add("a", 10)
    keys.add("a", 3)
    keys.add("a", 20)
    clock.now = 3.0
    assert drained(keys) == ["a"]
    clock.now = 100.0
    assert drained(keys) == []


def test_now_beats_later() -> None:
    keys, clock = queue()
    keys.add("a", 10)
    keys.add("a")
    assert drained(keys) == ["a"]
    clock.now = 10.0
    assert drained(keys) == []


def test_a_delay_that_is_set_during_a_look_stays() -> None:
    keys, clock = queue()
    keys.add("a")
    keys.take()
    keys.add("a", 5)
    keys.done("a")
    assert keys.take() is None
    clock.now = 5.0
    assert drained(keys) == ["a"]


def test_a_look_makes_earlier_appointments_void() -> None:
    keys, clock = queue()
    keys.add("a", 5)
    keys.add("a")
    keys.take()
    keys.done("a")
    clock.now = 5.0
    assert keys.take() is None


def test_what_is_due_while_it_is_looked_at_comes_again() -> None:
    keys, clock = queue()
    keys.add("a")
    keys.take()
    keys.add("a", 1)
    clock.now = 1.0
    assert keys.take() is None
    keys.done("a")
    assert drained(keys) == ["a"]


def test_a_forgotten_key_does_not_come() -> None:
    keys, clock = queue()
    keys.add("a")
    keys.add("b", 1)
    keys.forget("a")
    keys.forget("b")
    clock.now = 2.0
    assert drained(keys) == []


def test_void_appointments_do_not_pile_up() -> None:
    keys, _ = queue()
    for round_ in range(1000):
        keys.add("a")
        keys.take()
        keys.add("a", 1000 + round_)
        keys.done("a")
    assert len(keys._heap) < 100


async def test_looks_run_side_by_side_but_not_at_one_key() -> None:
    keys: WorkQueue[str] = WorkQueue()
    now: set[str] = set()
    most = 0
    looks: list[str] = []
    finished = asyncio.Event()

    async def look(key: str) -> None:
        nonlocal most
        assert key not in now
        now.add(key)
        most = max(most, len(now))
        keys.add(key) if looks.count(key) == 0 else None
        looks.append(key)
        await asyncio.sleep(0)
        now.discard(key)
        if len(looks) == 8:
            finished.set()

    for key in "abcd":
        keys.add(key)
    work = asyncio.create_task(keys.work(look, concurrency=3))
    async with asyncio.timeout(5):
        await finished.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert sorted(looks) == sorted("aabbccdd")
    assert most == 3


async def test_a_sleeping_worker_wakes_for_a_key() -> None:
    keys: WorkQueue[str] = WorkQueue()
    waiting = asyncio.create_task(keys.get())
    await asyncio.sleep(0)
    keys.add("a", 0.001)
    async with asyncio.timeout(5):
        assert await waiting == "a"
