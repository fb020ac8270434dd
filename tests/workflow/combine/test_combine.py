"""Runs combined: the updates are what the method says they are, for PEFT too, and the result is a run like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import Bench, edited_json
from support.thinned import thinned
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.artifacts.combination import combinations
from lorakit.artifacts.files import read_json
from lorakit.errors import LorakitError, RunError, UsageError

SHORT = ("training.max_steps=6", "training.lr=0.05", "adapter.dropout=0")
TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun", "no joke was told in this very long story ."]
WAYS = ("linear", "task_arithmetic", "ties", "dare", "dare_ties", "svd", "concat", "fisher", "regmean", "lorahub")


@pytest.fixture(scope="module")
def pair(bench: Bench) -> list[Path]:
    """Two runs of one recipe with different seeds. Not to be written into."""
    return [bench.train(*SHORT, f"run.seed={seed}", name="pair").run_dir for seed in (1, 2)]


def logits(run: Path) -> torch.Tensor:
    ours = lorakit.load(run)
    with torch.no_grad():
        result: torch.Tensor = ours.model(**ours.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    return result


def updates(run: Path) -> dict[str, torch.Tensor]:
    """Site -> the update of its weight, scale included."""
    adapted = lorakit.load(run).adapted
    return {
        name: adapted.adapters[name].scale * adapted.adapters[name].delta.dense().detach()
        for name in adapted.in_function
    }


def heads(run: Path) -> dict[str, torch.Tensor]:
    adapted = lorakit.load(run).adapted
    return {name: adapted.tensors()[name].clone() for name in adapted.new_parts}


@pytest.mark.parametrize("method", thinned(WAYS, 10))
def test_the_result_is_a_run_for_every_command(pair: list[Path], tmp_path: Path, method: str):
    result = lorakit.combine(pair, method=method, out=tmp_path / "run", rows=8)
    assert result.sites == 4
    assert set(WAYS) == set(combinations.names())
    scored = lorakit.evaluate(tmp_path / "run", task="custom")
    assert 0 <= scored.scores["accuracy"] <= 1
    lorakit.merge(tmp_path / "run", out=tmp_path / "merged")
    lorakit.export(tmp_path / "run", out=tmp_path / "peft")
    expected = logits(tmp_path / "run")
    assert_close(logits(tmp_path / "merged"), expected, rtol=1e-4, atol=1e-5)
    assert not any(torch.allclose(expected, logits(run), atol=1e-4) for run in pair)
    assert read_json(tmp_path / "run" / "summary.json")["combined"] == [str(run) for run in pair]


@pytest.mark.parametrize("method", thinned(["linear", "concat", "task_arithmetic"], 3))
def test_a_sum_is_exact(pair: list[Path], tmp_path: Path, method: str):
    weights = [0.3, 0.9]
    result = lorakit.combine(pair, method=method, coefficients=weights, out=tmp_path / "run")
    assert (result.error, result.ranks) == (0.0, (8, 8))
    one, other = map(updates, pair)
    for name, update in updates(tmp_path / "run").items():
        assert_close(update, 0.3 * one[name] + 0.9 * other[name], rtol=1e-4, atol=1e-6)
    mine, first, second = heads(tmp_path / "run"), *map(heads, pair)
    for name, tensor in mine.items():
        assert_close(tensor, 0.25 * first[name] + 0.75 * second[name], rtol=1e-5, atol=1e-6)


def test_default_weights(pair: list[Path], tmp_path: Path):
    told = {
        method: lorakit.combine(pair, method=method, out=tmp_path / method).coefficients
        for method in ("linear", "task_arithmetic", "ties", "dare")
    }
    assert told == {"linear": [0.5] * 2, "task_arithmetic": [0.3] * 2, "ties": [1.0] * 2, "dare": [0.5] * 2}


@pytest.mark.parametrize(
    ("method", "theirs", "options"),
    thinned(
        [("concat", "cat", {}), ("svd", "svd", {}), ("ties", "ties_svd", {"density": 0.3}), ("linear", "cat", {})], 2
    ),
)
def test_peft_combines_to_the_same_updates(
    pair: list[Path], bench: Bench, tmp_path: Path, method: str, theirs: str, options: dict[str, Any]
):
    """add_weighted_adapter on the exported adapters, without their heads, which PEFT does not combine."""
    for number, run in enumerate(pair):
        place = tmp_path / str(number)
        lorakit.export(run, out=place)
        with edited_json(place / "adapter_config.json") as config:
            config["modules_to_save"] = config["task_type"] = None
            config["rank_pattern"] = config["alpha_pattern"] = {}
        tensors = load_file(place / "adapter_model.safetensors")
        save_file({n: t for n, t in tensors.items() if "lora" in n}, place / "adapter_model.safetensors")
    base: Any = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    twin: Any = peft.PeftModel.from_pretrained(base, tmp_path / "0", adapter_name="one")
    twin.load_adapter(tmp_path / "1", adapter_name="two")
    rank = 32 if theirs == "ties_svd" else None
    extra = {"svd_rank": rank} if rank else {}
    twin.add_weighted_adapter(["one", "two"], [0.4, 1.1], "both", combination_type=theirs, **options, **extra)
    lorakit.combine(pair, method=method, coefficients=[0.4, 1.1], rank=rank, out=tmp_path / "run", **options)
    for name, update in updates(tmp_path / "run").items():
        module = twin.base_model.model.get_submodule(name)
        assert_close(update, module.get_delta_weight("both"), rtol=1e-3, atol=1e-5)


def test_what_a_rank_costs_is_told(pair: list[Path], tmp_path: Path):
    result = lorakit.combine(pair, method="linear", rank=2, out=tmp_path / "run")
    one, other = map(updates, pair)
    lost = whole = 0.0
    for name, update in updates(tmp_path / "run").items():
        exact = 0.5 * one[name] + 0.5 * other[name]
        lost += float((update - exact).square().sum())
        whole += float(exact.square().sum())
        assert torch.linalg.matrix_rank(update, rtol=1e-4) == 2
    assert result.error == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert 0 < result.error < 1


def test_sites_ranks_and_methods_may_differ(bench: Bench, pair: list[Path], tmp_path: Path):
    """The union of the sites; decomposed and anchored adapters by the updates they amount to."""
    runs = [
        pair[0],
        bench.train(*SHORT, "adapter.method=dora", "adapter.targets=[v,up]", "adapter.rank=3").run_dir,
        bench.train(*SHORT, "adapter.method=pissa", "adapter.targets=[q]").run_dir,
        bench.train(*SHORT, "adapter.method=vera", "adapter.rank=6").run_dir,
    ]
    result = lorakit.combine(runs, method="linear", coefficients=[1, 1, 1, 1], out=tmp_path / "run", rank=32)
    assert result.sites == 6
    adapted = [lorakit.load(run).adapted for run in runs]
    for name, update in updates(tmp_path / "run").items():
        expected = torch.zeros_like(update)
        for each in adapted:
            if name in each.in_function:
                weight = each.adapters[name].base_weight()
                expected = expected + (each.adapters[name].effective_weight(weight) - weight).detach()
        assert_close(update, expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(RunError, match="works on factors") as caught:
        lorakit.combine(runs, method="concat", out=tmp_path / "other")
    assert caught.value.problems[0].where == str(runs[1])
    with pytest.raises(RunError, match="sums factors of one rank"):
        lorakit.combine([runs[0], runs[2]], method="lorahub", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_one_run_twice_is_itself(pair: list[Path], tmp_path: Path, method: str):
    """Any weighted mean of the same thing."""
    lorakit.combine([pair[0], pair[0]], method=method, rows=8, rank=32, out=tmp_path / "run")
    assert_close(logits(tmp_path / "run"), logits(pair[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options", thinned([{"labels": "own", "normalise": "none"}, {}], 2), ids=["own", "the authors'"]
)
def test_fisher_by_hand(pair: list[Path], bench: Bench, tmp_path: Path, options: dict[str, str]):
    """Squared gradients of the merged models' losses, row by row, over all training rows.

    As in mmatena/model_merging by default: of each label as likely as the model finds it, over the norm of all.
    """
    rows = 45
    lorakit.combine(pair, method="fisher", rows=rows, rank=32, options=options, out=tmp_path / "run")
    information, parts = [], [updates(run) for run in pair]
    for number, run in enumerate(pair):
        lorakit.merge(run, out=tmp_path / f"merged{number}")
        ours = lorakit.load(tmp_path / f"merged{number}")
        import csv

        with (bench.data() / "train.csv").open() as stream:
            data = list(csv.DictReader(stream))
        sums: dict[str, torch.Tensor] = {}
        for row in data:
            ours.model.requires_grad_(True)
            inputs = ours.tokenizer([row["sentence"]], return_tensors="pt")
            own = ("happy", "plain").index(row["label"])
            for label in [own] if options else [0, 1]:
                ours.model.zero_grad()
                out = ours.model(**inputs).logits
                torch.nn.functional.cross_entropy(out, torch.tensor([label])).backward()
                share = 1 if options else out.detach().softmax(dim=-1)[0, label]
                for name in parts[0]:
                    squared = ours.model.get_submodule(name).weight.grad.square()
                    sums[name] = sums.get(name, 0) + share * squared / len(data)
        norm = 1 if options else torch.cat([value.flatten() for value in sums.values()]).norm()
        information.append({name: value / norm for name, value in sums.items()})
    for name, update in updates(tmp_path / "run").items():
        total = sum(each[name] for each in information)
        expected = sum(each[name] * part[name] for each, part in zip(information, parts, strict=True)) / total
        assert_close(update, expected, rtol=2e-2, atol=2e-3)


def test_lorahub_finds_weights_that_are_no_worse_than_equal_shares(pair: list[Path], tmp_path: Path):
    result = lorakit.combine(pair, method="lorahub", rows=45, out=tmp_path / "run")
    assert all(abs(weight) <= 1.5 for weight in result.coefficients)
    again = lorakit.combine(pair, method="lorahub", rows=45, out=tmp_path / "again")
    assert again.coefficients == result.coefficients
    one, other = (lorakit.load(run).adapted for run in pair)
    for name, update in updates(tmp_path / "run").items():
        b = sum(
            w * m.adapters[name].scale * m.adapters[name].delta.B
            for w, m in zip(result.coefficients, (one, other), strict=True)
        )
        a = sum(w * m.adapters[name].delta.A for w, m in zip(result.coefficients, (one, other), strict=True))
        assert_close(update, (b @ a).detach(), rtol=1e-3, atol=1e-5)


def test_heads_for_the_same_labels_are_averaged_by_name(bench: Bench, pair: list[Path], tmp_path: Path):
    turned = bench.train(*SHORT, "run.seed=2", "task.labels=[plain,happy]", name="turned").run_dir
    result = lorakit.combine([pair[0], turned], out=tmp_path / "run")
    assert result.head == "the weighted mean of all"
    mine, first, second = heads(tmp_path / "run"), heads(pair[0]), heads(turned)
    for name in first:
        assert_close(mine[name], (first[name] + second[name].flip(0)) / 2, rtol=1e-6, atol=1e-7)


def test_other_labels_keep_the_first_head(
    bench: Bench, pair: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    other = bench.train(*SHORT, kind="sst2").run_dir
    with caplog.at_level("INFO", "lorakit"):
        result = lorakit.combine([pair[0], other], out=tmp_path / "run")
    assert result.head == str(pair[0])
    assert "labels differ" in caplog.text
    assert result.task == "custom"
    mine, first = heads(tmp_path / "run"), heads(pair[0])
    assert all(torch.equal(mine[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "linaer"}, "no combination called 'linaer'"),
        ({"coefficients": [1.0]}, "1 coefficients for 2 runs"),
        ({"coefficients": [0.0, 0.0]}, "not all zero"),
        ({"coefficients": [1.0, float("nan")]}, "finite"),
        ({"method": "fisher", "coefficients": [1.0, -1.0]}, "coefficients must be above zero"),
        ({"method": "lorahub", "coefficients": [1.0, 1.0]}, "learns its coefficients"),
        ({"rank": 0}, "a rank of 0"),
        ({"density": 0.5}, "linear keeps every entry"),
        ({"method": "ties", "density": 0.0}, "a density of 0"),
        ({"method": "ties", "density": 1.1}, "a density of 1.1"),
        ({"rows": 0}, "0 rows"),
    ],
)
def test_arguments_that_make_no_sense(pair: list[Path], tmp_path: Path, arguments: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        lorakit.combine(pair, out=tmp_path / "run", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["linear", "svd", "ties"])
def test_a_run_that_diverged_or_has_not_ended_is_told(pair: list[Path], tmp_path: Path, method: str):
    broken = Path(shutil.copytree(pair[1], tmp_path / "broken"))
    file = broken / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    next(tensor for name, tensor in tensors.items() if "lora_A" in name).fill_(float("nan"))
    save_file(tensors, file)
    begun = Path(shutil.copytree(pair[1], tmp_path / "begun"))
    shutil.rmtree(begun / "adapter")
    for run, message in ((broken, "is not finite: the training diverged"), (begun, "has no last adapter yet")):
        with pytest.raises(RunError, match=message) as told:
            lorakit.combine([pair[0], run], method=method, out=tmp_path / "out")
        assert str(run) in told.value.problems[0].where
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "broken"]


def test_a_run_named_twice_is_told(pair: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("WARNING", "lorakit"):
        lorakit.combine(pair, out=tmp_path / "two")
        assert caplog.text == ""
        lorakit.combine([pair[0], pair[0] / "."], out=tmp_path / "one")
    assert "a run is named more than once" in caplog.text


def test_runs_that_do_not_go_together(bench: Bench, pair: list[Path], tmp_path: Path):
    shortcuts = bench.train(*SHORT, "adapter.shortcuts=[res1]").run_dir
    vectors = bench.train(*SHORT, "adapter.method=ia3").run_dir
    decoder = bench.train(*SHORT, family="gpt2").run_dir
    cases: list[tuple[list[Path], str]] = [
        ([pair[0]], "nothing to combine"),
        ([pair[0], shortcuts], r"res1 cannot be combined"),
        ([pair[0], vectors], "moves the bias too"),
        ([pair[0], decoder], "model of this run is"),
        ([pair[0], tmp_path], "is not a run folder"),
    ]
    for runs, message in cases:
        with pytest.raises(LorakitError, match=message) as caught:
            lorakit.combine(runs, out=tmp_path / "out")
        assert len(caught.value.problems) == 1
    copy = Path(shutil.copytree(pair[1], tmp_path / "copy"))
    text = (copy / "recipe.yaml").read_text()
    other = Path(shutil.copytree(bench.backbone(), tmp_path / "backbone"))
    (copy / "recipe.yaml").write_text(text.replace(str(bench.backbone()), str(other)))
    with pytest.raises(UsageError, match="model of this run is") as told:
        lorakit.combine([pair[0], copy], out=tmp_path / "out")
    assert told.value.problems[0].where == str(copy)
    with pytest.raises(UsageError, match="exists already"):
        lorakit.combine(pair, out=tmp_path)
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["backbone", "copy"]'
