"""What a folder from elsewhere has links to is not written to, and nothing is deleted there."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from unittest import mock

import pytest
from support.hostile.spoiling import listing
from support.runs import StopAt

import lorakit
from lorakit.artifacts.files import append_json, folder, write_text
from lorakit.errors import LorakitError, RunError
from lorakit.recipe.load import load_recipe
from lorakit.workflow import train as running


@pytest.mark.parametrize("name", ["report", "checkpoints", "adapter", "best"])
def test_a_run_s_folder_that_leads_elsewhere_is_not_written_into(unfinished, plain, tmp_path, outside, name):
    for step in (1, 2, 3):
        (outside / f"step-{step}").mkdir()
    for source in (unfinished, plain):
        run = Path(shutil.copytree(source, tmp_path / source.name))
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(outside)
        before = listing(outside)
        with pytest.raises(LorakitError, match="is a link"):
            lorakit.report(run)
        if source is unfinished:
            with pytest.raises(LorakitError, match="is a link"):
                lorakit.train(load_recipe(run / "recipe.yaml"), run_dir=run, resume=True)
        assert listing(outside) == before


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "summary.json", ".summary.json.partial", ".metrics.jsonl.partial", "report.html"]
)
def test_a_run_s_file_that_leads_elsewhere_is_not_written_to(unfinished, tmp_path, outside, name):
    run = Path(shutil.copytree(unfinished, tmp_path / "run"))
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside / "precious")
    before = listing(outside)
    with mock.patch.object(running, "draw"), contextlib.suppress(LorakitError):
        lorakit.train(load_recipe(run / "recipe.yaml"), run_dir=run, resume=True, hooks=[StopAt(5)])
    assert listing(outside) == before


def test_no_write_follows_a_link(tmp_path, outside):
    before = listing(outside)
    for name in ("a.json", ".a.json.partial", "b.jsonl"):
        (tmp_path / name).symlink_to(outside / "precious")
    write_text(tmp_path / "a.json", "ours")
    assert (tmp_path / "a.json").read_text() == "ours"
    with pytest.raises(RunError, match="is a link"):
        append_json(tmp_path / "b.jsonl", {})
    (tmp_path / ".c.partial").symlink_to(outside)
    with pytest.raises(RunError), folder(tmp_path / "c") as place:
        (place / "file").touch()
    assert listing(outside) == before
