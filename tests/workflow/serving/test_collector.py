"""Requests share batches; what was taken is answered, whatever happens to others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from lorakit.workflow.serving.collector import Answers, Collector, Full


class Counting:
    """Answers each text with its length, and notes the batches; ``gate`` holds it back while it is closed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, texts: Sequence[str], adapters: Sequence[str], batch_size: int) -> Answers:  # type: ignore[override]
        assert self.gate.wait(10)
        self.batches.append([f"{adapter}:{text}" for adapter, text in zip(adapters, texts, strict=True)])
        if "broken" in texts:
            raise ValueError("a broken text")
        return [np.array([len(text)], np.float32) for text in texts]


def run(steps: Callable[[Collector, Counting], Awaitable[None]], *, wait: float = 5.0, most: int = 100) -> Counting:
    """Do ``steps`` with a collector of batches of 4, and close it."""
    counting = Counting()

    async def whole() -> None:
        collector = Collector(counting, batch_size=4, wait=wait, most=most)  # type: ignore[arg-type]
        await steps(collector, counting)
        counting.gate.set()
        await collector.close()

    asyncio.run(asyncio.wait_for(whole(), 20))
    return counting


def test_requests_share_a_batch_and_get_their_own_answers():
    async def steps(collector: Collector, counting: Counting) -> None:
        answers = await asyncio.gather(
            collector.ask(["a", "bb"], "one"), collector.ask(["ccc"], "two"), collector.ask(["dddd"], "one")
        )
        assert [[float(each[0]) for each in own] for own in answers] == [[1, 2], [3], [4]]

    assert run(steps).batches == [["one:a", "one:bb", "two:ccc", "one:dddd"]]  # full, and so before the five seconds


def test_nobody_waits_longer_than_is_said():
    async def steps(collector: Collector, counting: Counting) -> None:
        await collector.ask(["a"], "one")
        await collector.ask(["b"] * 6, "one")  # more than a batch: alone

    assert list(map(len, run(steps, wait=0.01).batches)) == [1, 6]


def test_one_that_fails_fails_alone():
    async def steps(collector: Collector, counting: Counting) -> None:
        asked = [collector.ask([text], "one") for text in ("a", "broken", "ccc", "dd")]
        first, broken, *others = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(broken, ValueError)
        assert [float(each[0][0]) for each in (first, *others)] == [1, 3, 2]  # type: ignore[index]
        assert collector.waiting == 0

    run(steps)


def test_what_waits_at_the_end_is_answered():
    async def steps(collector: Collector, counting: Counting) -> None:
        counting.gate.clear()
        asked = [asyncio.create_task(collector.ask([str(number)], "one")) for number in range(9)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(collector.close())
        await asyncio.sleep(0.01)
        counting.gate.set()
        await closing
        assert all(task.done() and task.exception() is None for task in asked)

    assert sum(map(len, run(steps).batches)) == 9


def test_one_who_goes_away_takes_nobody_along():
    async def steps(collector: Collector, counting: Counting) -> None:
        counting.gate.clear()
        asked = [asyncio.create_task(collector.ask([text], "one")) for text in ("a", "bb", "cc", "dd")]
        await asyncio.sleep(0.01)
        asked[0].cancel()
        await asyncio.sleep(0)
        counting.gate.set()
        assert [float((await task)[0][0]) for task in asked[1:]] == [2, 2, 2]
        assert collector.waiting == 0

    run(steps)


def test_too_many_are_told_so():
    async def steps(collector: Collector, counting: Counting) -> None:
        counting.gate.clear()
        first = asyncio.create_task(collector.ask(["a"] * 5, "one"))  # alone it may be more than may wait
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await collector.ask(["b"], "one")
        counting.gate.set()
        assert len(await first) == 5
        assert len(await collector.ask(["b"], "one")) == 1

    run(steps, wait=0.0, most=3)
