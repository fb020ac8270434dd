"""Every reader of a folder from elsewhere works, or gives one error of lorakit and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import strategies as st
from support.hostile.effort import efforts, try_all
from support.hostile.readers import Reader, labelled, make_readers
from support.hostile.spoiling import Spoiling, fresh_copy, listing, spoilings

import lorakit
from lorakit.artifacts.run import open_run
from lorakit.errors import LorakitError
from lorakit.recipe.load import load_recipe
from lorakit.workflow import train as running
from lorakit.workflow.records import read_run


def survives(read: Reader, folder: Path, out: Path, outside: Path, *, writes_inside: bool = False) -> bool:
    """Whether ``read`` works; where it does not, that it raised one error of ours, and that everything is as it was."""
    around = [outside, out.parent] if writes_inside else [outside, out.parent, folder]
    before = listing(*around)
    try:
        read(folder, out)
    except LorakitError as error:
        told = str(error)
        told.encode("utf-8")
        if not error.problems or "\x1b" in told:
            raise AssertionError(f"not told well: {told!r}") from error
        assert listing(*around) == before
        return False
    assert listing(outside) == {key: value for key, value in before.items() if key.startswith(str(outside))}
    return True


def spoil_and_read(
    effort: Any,
    source: Path,
    tmp_path: Path,
    outside: Path,
    readers: dict[str, Reader],
    *files: str,
    writes_inside: bool = False,
) -> int:
    """Spoil a copy of ``source`` in one or two ways, and read it in one of the ways; how often that was tried, and went as it should."""
    folder, out = tmp_path / "copies" / "folder", tmp_path / "made" / "out"
    count = tried = 0

    def case(made: tuple[str, list[Spoiling]]) -> None:
        nonlocal count, tried
        name, ways = made
        fresh_copy(source, folder)
        if out.parent.exists():
            import shutil

            shutil.rmtree(out.parent)
        out.parent.mkdir()
        for way in ways:
            way.apply(folder, outside, files or None)
        count += survives(readers[name], folder, out, outside, writes_inside=writes_inside)
        tried += 1

    try_all(effort, st.tuples(st.sampled_from(sorted(readers)), st.lists(spoilings, min_size=1, max_size=2)), case)
    print(f"{count} worked")  # told with pytest -s
    return tried


ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "lorakit.json", "lorakit_model.safetensors")
RECORDS = (
    "recipe.yaml",
    "task.json",
    "summary.json",
    "metrics.jsonl",
    "timeline.jsonl",
    "lorakit.json",
    "environment.json",
)


@efforts(few=12)
def test_adapter_of_a_plain_run(effort, bench, plain, tmp_path, outside):
    assert spoil_and_read(effort, plain, tmp_path, outside, make_readers(bench, plain), *ADAPTER) > 0


@efforts(few=8)
def test_adapter_of_a_searched_run(effort, bench, searched, plain, tmp_path, outside):
    readers = {name: read for name, read in make_readers(bench, plain).items() if name in ("load", "merge", "report")}
    assert spoil_and_read(effort, searched, tmp_path, outside, readers, *ADAPTER) > 0


@efforts(few=8)
def test_records_of_a_run(effort, searched, plain, tmp_path, outside):
    readers: dict[str, Reader] = {
        "report": lambda folder, out: read_run(open_run(folder)),
        "load": labelled,
        "compare": lambda folder, out: lorakit.compare([str(folder), str(plain)], train=False, folder=out),
    }
    assert spoil_and_read(effort, searched, tmp_path, outside, readers, *RECORDS) > 0


@pytest.mark.slow
@efforts(few=10)
def test_pages_of_a_run(effort, searched, tmp_path, outside):
    assert (
        spoil_and_read(
            effort,
            searched,
            tmp_path,
            outside,
            {"report": lambda folder, out: lorakit.report(folder)},
            *RECORDS,
            writes_inside=True,
        )
        > 0
    )


@efforts(few=3)
def test_a_run_to_go_on_with(effort, unfinished, tmp_path, outside):
    def resume(folder: Path, out: Path) -> None:
        with mock.patch.object(running, "draw"):
            lorakit.train(load_recipe(folder / "recipe.yaml"), run_dir=folder, resume=True)

    files = {path.name for path in unfinished.rglob("*") if path.is_file()}
    assert (
        spoil_and_read(effort, unfinished, tmp_path, outside, {"resume": resume}, *sorted(files), writes_inside=True)
        > 0
    )


@efforts(few=15)
def test_a_merged_model(effort, merged, tmp_path, outside):
    assert spoil_and_read(effort, merged, tmp_path, outside, {"load": labelled}) > 0


@efforts(few=12)
def test_a_peft_adapter(effort, bench, exported, tmp_path, outside):
    data = bench.data()
    settings = [
        f"task.train={data}/train.csv",
        f"task.validation={data}/validation.csv",
        "task.text=sentence",
        "task.label=label",
    ]
    settings += [f"model.name={bench.backbone()}"]
    readers: dict[str, Reader] = {
        "import": lambda folder, out: lorakit.import_adapter(
            folder, task="custom", out=out, overrides=settings, offline=True
        )
    }
    assert spoil_and_read(effort, exported, tmp_path, outside, readers, *ADAPTER) > 0
