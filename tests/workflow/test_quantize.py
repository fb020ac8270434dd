"""Finished runs on 4-bit weights: what is carried over, what the correction gives back, and a run that every command reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import Bench
from support.thinned import thinned
from torch.testing import assert_close

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.backbone.quantised import Int4Linear, Nf4Linear
from lorakit.errors import RecipeError, RunError, UsageError
from lorakit.tasks.batching import Batch
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.quantize import input_magnitudes
from lorakit.workflow.setup import assemble

TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun", "no joke was told in this very long story ."]
SHORT = ("training.max_steps=6", "training.lr=0.05", "adapter.dropout=0")


@pytest.fixture(scope="module")
def run(bench: Bench) -> Path:
    """A run with adapters on queries and values. Not to be written into."""
    return bench.train(*SHORT, name="to-quantize").run_dir


def logits(run: Path) -> torch.Tensor:
    ours = lorakit.load(run)
    with torch.no_grad():
        result: torch.Tensor = ours.model(**ours.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    return result


def test_a_correction_of_full_rank_gives_everything_back(run: Path, tmp_path: Path):
    result = lorakit.quantize(run, method="lqer", rank=48, out=tmp_path / "run")
    was, quantised, corrected = result.states
    assert (was.error, was.largest, was.flips) == (0, 0, 0)
    assert quantised.error > 1e-3 > 1e-5 > corrected.error
    adapters = lorakit.load(tmp_path / "run").adapted.adapters.values()
    ours = {"q", "v"}
    widths = [(a.site.in_features + a.site.out_features, a.rank - 4 * (a.site.role in ours)) for a in adapters]
    assert corrected.bytes - quantised.bytes == 4 * sum(width * rank for width, rank in widths)
    assert_close(logits(tmp_path / "run"), logits(run), rtol=1e-4, atol=1e-5)
    assert result.rows == 0


@pytest.mark.parametrize(
    ("method", "bits", "kind"), thinned([("lqer", "nf4", Nf4Linear), ("l2qer", "int4", Int4Linear)], 2)
)
def test_the_result_is_a_run_for_every_command(run: Path, tmp_path: Path, method: str, bits: str, kind: type):
    if bits == "nf4":
        pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    result = lorakit.quantize(run, method=method, bits=bits, rank=8, rows=16, out=tmp_path / "run")
    _, quantised, corrected = result.states
    assert result.rows == (16 if method == "l2qer" else 0)
    assert 0 < corrected.error != quantised.error > 0
    adapted = lorakit.load(tmp_path / "run").adapted
    ranks = {adapter.site.role: adapter.rank for adapter in adapted.adapters.values()}
    assert ranks["q"] == ranks["v"] == 8 + lorakit.load_recipe(run).recipe.adapter.rank
    assert ranks["up"] == 8
    assert all(isinstance(adapter.base, kind) for adapter in adapted.adapters.values())
    assert result.sites == len(adapted.adapters)
    scored = lorakit.evaluate(tmp_path / "run", task="custom")
    assert scored.scores[result.metric] == pytest.approx(corrected.score)
    assert lorakit.evaluate(run, task="custom").scores[result.metric] == pytest.approx(result.states[0].score)
    merged = lorakit.merge(tmp_path / "run", out=tmp_path / "merged")
    assert merged.largest_difference < 1e-4
    told = read_json(tmp_path / "run" / "summary.json")
    assert (told["quantised"], told["method"], told["bits"], told["correction"]) == (str(run), method, bits, 8)


def test_what_was_lost_counts_once_and_over_the_same_weights_alone(run: Path, tmp_path: Path):
    """It trains on in the same bits; elsewhere it would be added to weights that lost nothing, or lost other things."""
    small = lorakit.quantize(run, method="lqer", rank=2, out=tmp_path / "small").out
    own = (f"adapter.start={small}", "training.max_steps=1")
    on = lorakit.train(small, own, run_dir=tmp_path / "on").run_dir
    for start, other in ((small, "model.quantization=none"), (small / "adapter", "model.quantization_group=16")):
        with pytest.raises(RecipeError, match="holds what its weights lost in int4") as caught:
            lorakit.plan(small, [f"adapter.start={start}", other])
        assert caught.value.problems[0].key == "adapter.start"
    for each in (small, on):
        with pytest.raises(UsageError, match="would count it several times"):
            lorakit.combine([run, each], method="task_arithmetic", out=tmp_path / "both")


def test_of_each_weight_there_is_left_what_its_rank_leaves(run: Path, tmp_path: Path):
    """By numpy's singular values of what quantising takes away."""
    lorakit.quantize(run, method="lqer", rank=8, out=tmp_path / "run")
    before, after = (lorakit.load(path).adapted for path in (run, tmp_path / "run"))
    for name, adapter in after.adapters.items():
        weight = before.model.get_submodule(name).weight.detach().double()
        error = weight - adapter.base.weight.double()
        own = before.adapters[name].scale * before.adapters[name].delta.dense() if name in before.adapters else 0
        left = error - (adapter.scale * adapter.delta.dense() - own).detach()
        rest = np.linalg.svd(error.numpy(), compute_uv=False)[8:]
        assert np.linalg.norm(left.numpy()) == pytest.approx(np.sqrt((rest**2).sum()), rel=1e-4), name


def test_magnitudes_are_means_over_tokens_without_padding(bench: Bench):
    parts = assemble(bench.load())
    model, sites = parts.backbone.model, parts.backbone.anatomy.sites
    objective = put_on_device(model, parts.recipe, regression=False)
    first = next(site for site in sites if site.layer == 0 and site.role == "q")
    texts = [parts.backbone.tokenizer(text, return_tensors="pt") for text in TEXTS]
    with torch.no_grad():
        seen = torch.cat([model.base_model.embeddings(one["input_ids"])[0] for one in texts])
    batch: Batch = dict(parts.backbone.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    found = input_magnitudes(model, sites, [batch], objective)
    assert_close(found[first.name], seen.abs().mean(dim=0), rtol=1e-5, atol=1e-6)
    assert set(found) == {site.name for site in sites}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "gptq"}, "no method 'gptq'"),
        ({"bits": "int8"}, "cannot be quantised to 'int8'"),
        ({"group": 33}, "groups of 33"),
        ({"bits": "nf4", "group": 64}, "no groups"),
        ({"rank": 0}, "rank of 0"),
        ({"rows": 0}, "0 rows"),
    ],
)
def test_arguments_that_make_no_sense(run: Path, arguments: dict[str, object], words: str):
    with pytest.raises(UsageError, match=words):
        lorakit.quantize(run, **arguments)


def test_a_folder_that_is_no_run_is_told_from_one(bench: Bench, run: Path, tmp_path: Path):
    step = tmp_path / "run" / "checkpoints" / "step-2"
    step.mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").touch()
    for folder, words, road in (
        (bench.backbone(), "is a model, and no run", "model.quantization=int4"),
        (lorakit.merge(run, out=tmp_path / "merged").out, "is a model, and no run", "the run that it was merged from"),
        (step, "is a step of a run", str(tmp_path / "run")),
        (tmp_path, "is not a run folder", "lorakit train made"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            lorakit.quantize(folder)
        (problem,) = caught.value.problems
        assert road in f"{problem.valid} {problem.hint}"


def test_a_run_in_few_bits_is_refused_before_its_weights_are_read(bench: Bench, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(bench.load("model.quantization=mixed").to_yaml())
    with pytest.raises(UsageError, match="in mixed already"):
        lorakit.quantize(tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (("adapter.method=dora",), RunError, "not of low rank"),
        (("adapter.shortcuts=[res1]",), RunError, "no update of a projection's weight"),
        (("adapter.method=bitfit",), RunError, "carried over"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(
    bench: Bench, tmp_path: Path, settings: tuple[str, ...], error: type[Exception], words: str
):
    source = bench.train(*SHORT, *settings, "training.max_steps=1", run_dir=tmp_path / "source").run_dir
    with pytest.raises(error, match=words):
        lorakit.quantize(source, out=tmp_path / "run", rank=2, rows=4)
    assert not (tmp_path / "run").exists()
