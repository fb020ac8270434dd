"""Requests that come at about the same time are computed together.

A request's texts wait until a batch is full or the first of them has waited ``wait`` seconds; while a batch is computed, in a thread of its
own, the next one is collected. Nothing that was taken is dropped: ``close`` waits until all of it is answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lorakit.tasks.new_texts import Text

Answers = list[NDArray[np.float32]]
Compute = Callable[[Sequence[Text], Sequence[str], int], Answers]
"""(texts, the adapter of each, rows computed at once) -> an answer each."""


class Full(Exception):
    """As many texts wait as may."""


@dataclass
class Asked:
    """A request's texts, and where its answers go."""

    texts: Sequence[Text]
    adapter: str
    answered: asyncio.Future[Answers] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Collector:
    """Collects requests into batches; made and used in one event loop.

    Args:
        compute: what answers texts.
        batch_size: texts that are computed at once.
        wait: seconds that the first text of a batch waits for others.
        most: texts that may wait.
        seen: is told the texts of every batch that was computed.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        batch_size: int,
        wait: float,
        most: int,
        seen: Callable[[int], None] = lambda rows: None,
    ):
        self.compute, self.batch_size, self.wait, self.most, self.seen = compute, batch_size, wait, most, seen
        self.waiting = 0
        """Texts that are not answered yet."""
        self.asked: deque[Asked] = deque()
        self.came = asyncio.Event()
        self.closing = False
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="lorakit-serve")
        self.work = asyncio.create_task(self.run())

    async def ask(self, texts: Sequence[Text], adapter: str) -> Answers:
        """The answers to texts, once they are computed. Full where too many wait."""
        if self.waiting and self.waiting + len(texts) > self.most:
            raise Full
        asked = Asked(texts, adapter)
        self.waiting += len(texts)
        self.asked.append(asked)
        self.came.set()
        try:
            return await asyncio.shield(asked.answered)  # who asked may go away, and others are in the same batch
        finally:
            self.waiting -= len(texts)

    async def run(self) -> None:
        """Compute batch after batch, until it is closed and nothing waits."""
        while self.asked or not self.closing:
            if not self.asked:
                self.came.clear()
                await self.came.wait()
                continue
            if not self.full and not self.closing:
                await self.gather()
            await self.answer(self.taken())

    @property
    def full(self) -> bool:
        """Whether what waits fills a batch."""
        return sum(len(each.texts) for each in self.asked) >= self.batch_size

    async def gather(self) -> None:
        """Wait for more, until the batch is full or the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.wait
        while not self.full and not self.closing and (left := until - loop.time()) > 0:
            self.came.clear()
            try:
                await asyncio.wait_for(self.came.wait(), left)
            except TimeoutError:
                return

    def taken(self) -> list[Asked]:
        """The oldest requests, as many as fill a batch; one alone may be more."""
        taken: list[Asked] = []
        texts = 0
        while self.asked and (not taken or texts + len(self.asked[0].texts) <= self.batch_size):
            taken.append(self.asked.popleft())
            texts += len(taken[-1].texts)
        return taken

    async def answer(self, taken: Sequence[Asked]) -> None:
        """Compute these requests together. Where that fails, each by itself, so that one cannot fail the others."""
        try:
            answers = iter(await self.computed(taken))
        except Exception as error:  # goes to who asked
            if len(taken) > 1:
                for each in taken:
                    await self.answer([each])
            elif not taken[0].answered.done():
                taken[0].answered.set_exception(error)
            return
        for each in taken:
            found = [next(answers) for _ in each.texts]
            if not each.answered.done():
                each.answered.set_result(found)

    async def computed(self, taken: Sequence[Asked]) -> Answers:
        """The answers to all of them."""
        texts = [text for each in taken for text in each.texts]
        adapters = [each.adapter for each in taken for _ in each.texts]
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(self.thread, self.compute, texts, adapters, self.batch_size)
        self.seen(len(texts))
        return answers

    async def close(self) -> None:
        """Answer what waits, and end."""
        self.closing = True
        self.came.set()
        await self.work
        self.thread.shutdown()
