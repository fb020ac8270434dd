"""A run's card tells what the run remembers, as the hub reads it, and its lines of Python do what they say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from support.runs import Bench
from torch.testing import assert_close

import lorakit
from lorakit.errors import UsageError
from lorakit.workflow.records import tell_origin
from lorakit.workflow.train import TrainResult

TEXT = "a good film was never dull"
SHORT = ("training.max_steps=4", "training.lr=0.05", "adapter.dropout=0")


def snippets(text: str) -> dict[str, str]:
    """Heading -> the Python under it."""
    parts = text.split("\n### ")[1:]
    return {
        part.partition("\n")[0]: part.split("```python\n")[1].split("```")[0] for part in parts if "```python" in part
    }


@pytest.fixture
def beside(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder in which the base model lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / bench.backbone().name).symlink_to(bench.backbone())
    return tmp_path


def run_all(code: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names after all snippets, in order, with what was printed as ``printed``."""
    printed: list[Any] = []
    names: dict[str, Any] = {"print": printed.append, "printed": printed}
    exec("\n".join(code.values()).replace("a text", TEXT), names)
    return names


def test_the_hub_s_library_reads_what_the_run_remembers(finished: TrainResult, tmp_path: Path):
    made = lorakit.card(finished.run_dir, out=tmp_path / "card.md", base="someone/small")
    card = ModelCard.load(made.out)
    assert (made.scored, made.peft, made.transformers) == (True, "", "")
    data = card.data.to_dict()
    assert data["base_model"] == "someone/small"
    assert (data["library_name"], data["pipeline_tag"], data["tags"]) == (
        "peft",
        "text-classification",
        ["lorakit", "lora"],
    )
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == finished.last
    assert "datasets" not in data  # own data have no name there
    text = card.text
    low, high = lorakit.evaluate(finished.run_dir).interval or (0, 0)
    assert f"| accuracy | {finished.last['accuracy']:.4f} | {low:.4f} to {high:.4f} |" in text
    assert "| train | 45 | happy 24, plain 21 |" in text  # the rows of support.runs
    assert f"| {finished.adapter_parameters:,} " in text
    assert "![Losses and scores](report/curves.png)" in text
    assert str(Path.home()) not in text
    assert str(finished.run_dir.parent) not in text


def test_all_lines_load_the_run(finished: TrainResult, beside: Path, monkeypatch: pytest.MonkeyPatch):
    name = 'it is "kept"'
    shutil.copytree(finished.run_dir, beside / name)
    lorakit.card(name)
    code = snippets((beside / name / "README.md").read_text())
    assert list(code) == ["lorakit", "PEFT", "transformers"]
    names = run_all(code, monkeypatch)
    (ours,), (theirs,) = names["printed"]
    assert (theirs["label"], ours.text) == (ours.label, TEXT)
    assert_close(theirs["score"], ours.probability, rtol=1e-4, atol=1e-5)


def test_what_peft_has_after_an_export_and_what_it_cannot_have(
    bench: Bench, searched: TrainResult, beside: Path, monkeypatch: pytest.MonkeyPatch
):
    run = bench.train(*SHORT, "adapter.method=pissa", run_dir=beside / "anchored").run_dir
    lorakit.card("anchored")
    text = (run / "README.md").read_text()
    assert "`lorakit export anchored` writes" in text
    lorakit.export("anchored")
    (ours,), (theirs,) = run_all(snippets(text), monkeypatch)["printed"]
    assert_close(theirs["score"], ours.probability, rtol=1e-4, atol=1e-5)
    made = lorakit.card(searched.run_dir, out=beside / "shortcuts.md")
    text = made.out.read_text()
    assert list(snippets(text)) == ["lorakit"]
    assert "PEFT cannot load this adapter: PEFT cannot express" in text
    assert "merged neither: it would leave out the shortcuts" in text
    assert "library_name: lorakit\n" in text
    assert "report/sites.png" in text
    assert "| search | heterolora |" in text


def test_without_scores_it_says_so_and_claims_none(finished: TrainResult, tmp_path: Path):
    """A combined run was not trained, so nothing of it was scored."""
    run = lorakit.combine([finished.run_dir, finished.run_dir], out=tmp_path / "both").out
    made = lorakit.card(run)
    name = finished.run_dir.name
    card = ModelCard.load(made.out)
    assert not made.scored
    assert card.data.eval_results is None
    assert "These weights have no scores." in card.text
    assert f"not trained here but combined from {name}, {name} by" in card.text
    assert "the rows of the first of the runs" in card.text
    assert "| trained |" not in card.text
    assert str(tmp_path) not in card.text
    assert str(finished.run_dir.parent) not in card.text


def test_rows_that_were_held_out_are_no_validation_rows(copied: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor does a card say of other libraries that they read long texts as lorakit does; the run is the current folder."""
    recipe = copied / "recipe.yaml"
    told = recipe.read_text().replace("holdout: null", "holdout: 0.2").replace("long: truncate", "long: head_tail")
    recipe.write_text(told)
    monkeypatch.chdir(copied)
    lorakit.card(".")
    card = ModelCard.load(copied / "README.md")
    assert {each.dataset_split for each in card.data.eval_results} == {"train"}
    assert card.data.model_name == "copied"
    assert "cut in its middle by lorakit, and at its end by all others" in card.text
    assert "that is written in a text is plain text to lorakit, and a token to all others" in card.text


def test_a_quantised_run_was_not_trained():
    assert tell_origin({"quantised": "runs/one", "method": "lqer"}) == "quantised from runs/one by lqer"


def test_a_card_that_is_there_is_kept(finished: TrainResult, tmp_path: Path):
    (tmp_path / "mine.md").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        lorakit.card(finished.run_dir, out=tmp_path / "mine.md")
    assert (tmp_path / "mine.md").read_text() == "mine"
