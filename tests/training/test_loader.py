"""The order of the rows: every one once an epoch, on however many processes, from wherever it starts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch
from support.runs import Bench

from lorakit.recipe.schema import TrainingSection
from lorakit.tasks.batching import IDLE
from lorakit.training.loader import StepBatch, TrainLoader


class Rows:
    """Stands in for an encoded split: a batch is the numbers of its rows."""

    def __init__(self, number: int):
        self.lengths = [1 + row * 7 % 11 for row in range(number)]

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens_of(self, rows: Sequence[int], multiple: int = 1) -> int:
        return len(rows) * max(self.lengths[row] for row in rows)

    def collate(self, rows: Sequence[int], multiple: int = 1) -> dict[str, torch.Tensor]:
        return {"rows": torch.tensor(list(rows))}


def loader(
    number: int = 43,
    process: int = 0,
    processes: int = 1,
    seed: int = 5,
    in_step: bool = False,
    **training: int | bool | None,
) -> TrainLoader:
    section = TrainingSection(**{"batch_size": 8, **training})
    return TrainLoader(Rows(number), section, seed, process, processes, in_step=in_step)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [1, 7, 24, 60, 1000])
@pytest.mark.parametrize("processes", [1, 2])
def test_parts_of_a_batch_have_no_more_tokens_than_allowed(limit: int, processes: int):
    """The steps keep their rows, whatever they are cut into; a batch that fits is left as it is."""
    for process in range(processes):
        cut, whole = (
            loader(process=process, processes=processes, accumulate=2, micro_tokens=tokens) for tokens in (limit, None)
        )
        lengths = cut.encoded.lengths
        for mine, theirs in zip(cut.step_batches(1), whole.step_batches(1), strict=True):
            assert sorted(chain(*rows(mine))) == sorted(chain(*rows(theirs)))
            assert (mine.rows, idle(mine)) == (theirs.rows, idle(theirs))
            for part in rows(mine):
                assert len(part) == 1 or len(part) * max(lengths[row] for row in part) <= limit
            fitting = [part for part in rows(theirs) if len(part) * max(lengths[row] for row in part) <= limit]
            assert all(part in rows(mine) for part in fitting)


def rows(step_batch: StepBatch) -> list[list[int]]:
    return [batch["rows"].tolist() for batch in step_batch.batches]


def idle(step_batch: StepBatch) -> int:
    """How many batches count nothing; they stand last."""
    marked = [IDLE in batch for batch in step_batch.batches]
    assert sorted(marked) == marked
    return sum(marked)


@pytest.mark.parametrize("accumulate", [1, 2, 4, 99])
@pytest.mark.parametrize("group", [True, False])
def test_an_epoch_is_every_row_once(accumulate: int, group: bool):
    step_batches = list(loader(accumulate=accumulate, length_grouping=group).step_batches(epoch=2))
    batches = [batch for step_batch in step_batches for batch in rows(step_batch)]
    assert sorted(chain(*batches)) == list(range(43))
    assert [len(batch) for batch in batches] == [8] * 5 + [3]
    assert [len(step_batch.batches) for step_batch in step_batches[:-1]] == [accumulate] * (len(step_batches) - 1)
    assert [step_batch.rows for step_batch in step_batches] == [
        sum(map(len, rows(step_batch))) for step_batch in step_batches
    ]


def test_epochs_and_seeds_differ_and_repeat():
    orders = [
        [rows(w) for w in loader(seed=seed).step_batches(epoch)] for seed, epoch in ((5, 0), (5, 1), (6, 0), (5, 0))
    ]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_skipping_is_what_a_resumed_epoch_sees(accumulate: int):
    whole = [rows(step_batch) for step_batch in loader(accumulate=accumulate).step_batches(1)]
    for skip in range(len(whole) + 1):
        assert [rows(step_batch) for step_batch in loader(accumulate=accumulate).step_batches(1, skip=skip)] == whole[
            skip:
        ]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_same_batches(processes: int):
    """Together they see what one process sees, in the same steps; each gets every n-th row of a batch."""
    alone = list(loader(accumulate=2).step_batches(0))
    shared = [list(loader(accumulate=2, process=p, processes=processes).step_batches(0)) for p in range(processes)]
    for step, step_batch in enumerate(alone):
        parts = [share[step] for share in shared]
        assert {part.rows for part in parts} == {step_batch.rows}
        assert sorted(chain(*chain(*map(rows, parts)))) == sorted(chain(*rows(step_batch)))


def test_a_process_without_rows_repeats_one_that_does_not_count():
    """The last step has one row for two processes: both must run, or the exchange of gradients would wait for ever."""
    first, second = (list(loader(41, process=p, processes=2).step_batches(0))[-1] for p in (0, 1))
    assert (idle(first), idle(second)) == (0, 1)
    assert rows(first) == rows(second)
    assert first.rows == second.rows == 1


@pytest.mark.parametrize("settings", [{"micro_tokens": 7}, {"accumulate": 2}, {"accumulate": 99, "micro_tokens": 20}])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_in_step_pass_equally_often_and_count_what_they_counted(settings: dict[str, int], processes: int):
    """41 rows in batches of 8: of the last one, a row, all processes but one have none."""
    freely, together = (
        [list(loader(41, p, processes, in_step=in_step, **settings).step_batches(0)) for p in range(processes)]
        for in_step in (False, True)
    )
    assert all(len({len(part.batches) for part in parts}) == 1 for parts in zip(*together, strict=True))
    assert processes == 1 or any(idle(part) for share in together for part in share)
    for before, after in zip(chain(*freely), chain(*together), strict=True):
        assert rows(before)[: len(before.batches) - idle(before)] == rows(after)[: len(after.batches) - idle(after)]
        assert before.rows == after.rows


def test_the_first_batches_are_the_authors_first_ones():
    generator = torch.Generator().manual_seed(0)
    batches = [batch["rows"].tolist() for batch in loader().first(2, generator)]
    assert batches == [list(range(8)), list(range(8, 16))]
    assert sum(len(batch["rows"]) for batch in loader().first(99, generator)) == 43
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())


def test_sampled_batches_are_drawn_without_replacement():
    generator = torch.Generator().manual_seed(0)
    drawn = [[batch["rows"].tolist() for batch in loader().sample(3, generator)] for _ in range(2)]
    for batches in drawn:
        assert [len(batch) for batch in batches] == [8, 8, 8]
        assert len(set(chain(*batches))) == 24
    assert drawn[0] != drawn[1]
    again = torch.Generator().manual_seed(0)
    assert [batch["rows"].tolist() for batch in loader().sample(3, again)] == drawn[0]
    assert len(loader().sample(99, generator)) == 6


@pytest.mark.parametrize("settings", [(), ("task.long=windows", "task.max_length=6")])
def test_what_is_cut_is_what_is_computed(bench: Bench, tmp_path: Path, settings: tuple[str, ...]):
    """Windows, each a line of its own, and padding are counted as they are in the batch."""
    loader = bench.prepare(tmp_path, "training.micro_tokens=60", *settings).loader
    sizes = [(b["input_ids"].numel(), len(b["labels"])) for step in loader.step_batches(0) for b in step.batches]
    assert sum(rows for _, rows in sizes) == len(loader.encoded)
    assert all(size <= 60 or rows == 1 for size, rows in sizes)
    assert max(size for size, _ in sizes) > 30
