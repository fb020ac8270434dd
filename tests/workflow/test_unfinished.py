"""Which keys may be other ones when a run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorakit.artifacts.run import Run
from lorakit.workflow.unfinished import own_memory


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ("now/memory/2-size.jsonl", True),
        ("now/tasks/../memory/2-size.jsonl", True),
        ("now/memory/3-mood.jsonl", False),
        ("other/memory/2-size.jsonl", False),
        (None, False),
    ],
)
def test_a_memory_is_the_one_of_the_runs_own_sequence_wherever_that_is(tmp_path: Path, given: str | None, same: bool):
    run = Run(tmp_path / "now" / "tasks" / "2-size")
    assert own_memory(run, "before/memory/2-size.jsonl", None if given is None else str(tmp_path / given)) == same
