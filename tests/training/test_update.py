"""What every training update owes, and how a recipe's updates are read. What one of them does: its own file in ``updates``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.processes import launch
from support.runs import SEARCH, Bench, StopAt, records
from support.thinned import thinned
from torch.testing import assert_close

import lorakit
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.errors import Interrupted, RecipeError
from lorakit.training.update import chosen_updates, updates

SETTINGS: dict[str, tuple[str, ...]] = {
    "am_lora": ("adapter.delta=attended", "adapter.options={each: 2}", "adapter.update_options={earlier: 1}"),
    "aflora": ("adapter.update_options={final: 0.25, window: 2, square: trained}",),
    "bilora": ("adapter.method=bilora",),
    "delta_lora": ("adapter.method=delta_lora",),
    "diff_pruning": ("adapter.method=diff_pruning",),
    "drop_bp": ("adapter.update_options={rate: 0.25}",),  # one branch of four: a step drops no fewer
    "glora_supernet": ("adapter.method=glora", "adapter.options={mode: supernet}"),
    "load_balance": ("adapter.method=lora_moe", "adapter.options={experts: 3}"),
    "online_lora": ("adapter.update_options={loras: 2, window: 2, loss_variance: 100}",),
    "prune_channels": ("adapter.method=loraprune", "adapter.update_options={every: 2}"),
    "restart": ("adapter.method=relora", "adapter.update_options={layers: 1}"),
    "shifted_attention": ("adapter.update_options={group: 4}",),  # rows have up to 13 tokens
    "rose": ("adapter.update_options={keep: 0.25}",),
}


def settings(name: str) -> tuple[str, ...]:
    """A recipe with this update, dropout where the method takes it, and two evaluations an epoch."""
    dropout = "adapter.dropout=0" if name in ("delta_lora", "diff_pruning", "glora_supernet") else "adapter.dropout=0.2"
    return (
        f"adapter.updates=[{name}]",
        "evaluation.every_steps=3",
        "run.log_every=3",
        dropout,
        *SETTINGS.get(name, ()),
    )


ALONE = [name for name in updates.names() if not updates.get(name).of_sequences]
"""Those that a recipe of one task can have; the others' tests train sequences."""


@pytest.fixture(scope="module", params=ALONE)
def trained(request: pytest.FixtureRequest, bench: Bench) -> tuple[str, dict[str, Any]]:
    """Each registered update, and a run with it that was never stopped."""
    name = request.param
    return name, records(bench.train(*settings(name)).run_dir)


@pytest.mark.parametrize("step", thinned([9, 1, 5, 11], 4))
def test_resumed_is_never_stopped(bench: Bench, tmp_path: Path, trained: tuple[str, dict[str, Any]], step: int):
    name, whole = trained
    overrides = settings(name)
    with pytest.raises(Interrupted):
        bench.train(*overrides, run_dir=tmp_path / "run", hooks=[StopAt(step)])
    torch.manual_seed(99)  # another process would start from another state
    bench.train(*overrides, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == whole


@pytest.mark.slow
def test_the_same_seed_gives_the_same(bench: Bench, trained: tuple[str, dict[str, Any]]):
    """As the one that was stopped does, too, and from the middle on in another state of the process."""
    name, whole = trained
    again = records(bench.train(*settings(name)).run_dir)
    assert again == whole


@pytest.fixture(scope="module")
def weights(bench: Bench) -> Callable[..., dict[str, bytes]]:
    """File -> its bytes after a training of these settings, which is done once."""

    @cache
    def trained(*settings: str) -> dict[str, bytes]:
        run = records(bench.train(*settings).run_dir)
        return {name: found for name, found in run.items() if name.endswith(".safetensors")}

    return trained


def test_it_changes_the_training(weights: Callable[..., dict[str, bytes]], trained: tuple[str, dict[str, Any]]):
    """Or it would not be one: without it the weights end elsewhere."""
    name, whole = trained
    others = [setting for setting in settings(name) if not setting.startswith("adapter.update")]
    plain = weights(*others, "adapter.updates=[]")
    assert any(whole[key] != plain[key] for key in plain)


@pytest.mark.parametrize("name", thinned(ALONE, 5))
def test_the_loss_goes_down(bench: Bench, name: str):
    epochs, rate = (
        (15, 5e-3) if name == "glora_supernet" else (8, 1e-2)
    )  # it trains another configuration in every step
    long = (f"training.epochs={epochs}", f"training.lr={rate}", f"training.head_lr={2 * rate}")
    steps = ("training.schedule=constant", f"evaluation.every_steps={6 * epochs}", f"run.log_every={epochs}")
    rest = ("adapter.targets=[all]", "adapter.dropout=0")
    run = bench.train(*settings(name), *long, *steps, *rest, family="opt").run_dir
    losses = [record["loss"] for record in read_jsonl(run / "metrics.jsonl") if "loss" in record]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", updates.names())
def test_its_card_and_its_options_are_told(name: str):
    update = updates.get(name)
    assert update.name == name
    assert update.summary
    assert update.source
    assert all(option.doc for option in update.options.values())


def test_a_method_brings_its_own_updates_and_a_recipe_may_choose_others(bench: Bench):
    def chosen(*overrides: str) -> list[tuple[str, dict[str, Any]]]:
        return [(kind.name, options) for kind, options in chosen_updates(bench.load(*overrides).recipe)]

    assert chosen() == []
    assert chosen("adapter.method=roselora") == [("rose", {})]
    assert chosen("adapter.method=roselora", "adapter.updates=[]") == []
    assert chosen("adapter.method=roselora", "adapter.updates=[drop_bp,sparse_mask]") == [
        ("drop_bp", {}),
        ("sparse_mask", {}),
    ]
    assert chosen("adapter.method=cola") == [("restart", {"reset": "new", "rate": "anew"})]
    assert chosen("adapter.method=cola", "adapter.update_options={rate: steady, every: 3}") == [
        ("restart", {"reset": "new", "rate": "steady", "every": 3})
    ]
    assert chosen("adapter.updates=[drop_bp,rose]", "adapter.update_options={keep: 0.5, rate: 0.25}") == [
        ("drop_bp", {"rate": 0.25}),
        ("rose", {"keep": 0.5}),
    ]


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        (["adapter.update_options={rate: 0.5}"], "adapter.update_options", "there is no update"),
        (
            ["adapter.updates=[rose]", "adapter.update_options={kep: 0.5}"],
            "adapter.update_options",
            "did you mean 'keep'",
        ),
        (["adapter.updates=[drop_bp]", "adapter.update_options={rate: 2}"], "adapter.update_options", "at most 1"),
        (["adapter.updates=[drop_bp]", "adapter.update_options={rate: much}"], "adapter.update_options", "a number"),
        (["adapter.updates=[sparse_mask]", "adapter.update_options={score: grasp}"], "adapter.update_options", "snip"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(
    bench: Bench, tmp_path: Path, overrides: list[str], key: str, text: str
):
    loaded = bench.load(*overrides)
    with pytest.raises(RecipeError, match=text) as caught:
        lorakit.train(loaded, run_dir=tmp_path / "run")
    problem = caught.value.problems[0]
    assert (problem.key, problem.where) == (key, loaded.where(key))
    assert len(caught.value.problems) == 1
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match=text):
        lorakit.plan(loaded)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["adapter.method=ia3", "adapter.dropout=0", "adapter.updates=[rose]"], "adapter.updates"),
        (["adapter.method=ia3", "adapter.dropout=0", "adapter.updates=[sparse_mask]"], "adapter.updates"),
        (["adapter.method=ia3", "adapter.dropout=0", "adapter.updates=[aflora]"], "adapter.updates"),
        (["adapter.method=pissa", "adapter.updates=[rose]"], "adapter.init"),
        (["adapter.method=pissa", "adapter.updates=[sparse_mask]"], "adapter.init"),
        (["adapter.updates=[aflora]"], "adapter.update_options"),
        (["adapter.updates=[aflora]", "adapter.update_options={final: 0.5}", *SEARCH], "search.method"),
    ],
)
def test_an_adapter_without_what_an_update_needs_is_refused(
    bench: Bench, tmp_path: Path, overrides: list[str], key: str
):
    with pytest.raises(RecipeError) as caught:
        bench.train(*overrides, run_dir=tmp_path / "run")
    assert [problem.key for problem in caught.value.problems] == [key]


def test_an_update_draws_from_its_own_stream_of_training_rows(bench: Bench, tmp_path: Path):
    """Not from the data's or the dropout's: with and without it, those are the same; and other seeds draw others."""
    training = bench.prepare(tmp_path, "adapter.updates=[drop_bp,rose]")
    one, other = (hook.context for hook in training.hooks)  # type: ignore[attr-defined]
    assert one.generator is not other.generator
    assert not torch.equal(torch.rand(4, generator=one.generator), torch.rand(4, generator=other.generator))
    rows = {tuple(row.tolist()) for row in training.loader.encoded.collate(range(45))["input_ids"]}
    for batch in one.draw(3):
        for row in batch["input_ids"]:
            assert any(row.tolist() == list(known[: len(row)]) for known in rows)


def test_a_search_and_an_update_together(bench: Bench, tmp_path: Path):
    """Sites come and go while entries are pruned and branches dropped; resumed all the same."""
    both = (*SEARCH, "search.every=0.5", "adapter.updates=[drop_bp,rose]", "adapter.update_options={keep: 0.5}")
    whole = records(bench.train(*both).run_dir)
    with pytest.raises(Interrupted):
        bench.train(*both, run_dir=tmp_path / "run", hooks=[StopAt(4)])
    bench.train(*both, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == whole
    assert set(read_json(tmp_path / "run" / "checkpoints" / "step-12" / "state.json")["hooks"]) >= {"drop_bp", "rose"}


TOGETHER = {
    "drop_bp and rose": (
        "adapter.updates=[drop_bp,rose]",
        "adapter.update_options={keep: 0.5, begin: 0, rate: 0.3}",
    ),
    "sparse_mask": ("adapter.updates=[sparse_mask]",),
    "aflora": ("adapter.updates=[aflora]", "adapter.update_options={final: 0.5, window: 2, square: trained}"),
    "load_balance": (
        "adapter.updates=[load_balance]",
        "adapter.update_options={weight: 1}",
        "adapter.method=hydralora",
    ),
    "online_lora": (
        "adapter.updates=[online_lora]",
        "adapter.update_options={loras: 2, window: 2, loss_variance: 100}",
    ),
}


@pytest.fixture(scope="module")
def pairs(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Updates -> their run in one process and in two, of one launch: to start two processes takes longer than to train."""
    folder, recipe, jobs, runs = tmp_path_factory.mktemp("pairs"), str(bench.load().path), [], {}
    backbone = bench.backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for name, chosen in TOGETHER.items():
        still = ("adapter.dropout=0", "training.lr=1e-3", "training.batch_size=6", f"model.name={backbone}")
        jobs.append({"recipe": recipe, "overrides": (*chosen, *still), "run": str(folder / name), "stops": []})
        runs[name] = bench.train(*chosen, *still).run_dir, folder / name
    assert not launch(folder, jobs)
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_decide_alike(pairs: dict[str, tuple[Path, Path]], name: str):
    """The same global batch on two processes: the same branches, masks and freezing, so the same weights to rounding."""
    ours, theirs = (
        {name: tensor for file in (run / "adapter").glob("*.safetensors") for name, tensor in load_file(file).items()}
        for run in pairs[name]
    )
    assert ours
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-6)
