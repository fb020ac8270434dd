"""Layers that recompute: the same training to the bit, with less kept for the way back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.runs import SEARCH, Bench, StopAt, records
from transformers.models.bert.modeling_bert import BertForSequenceClassification

import lorakit
from lorakit.errors import Interrupted, RecipeError
from lorakit.searching.scoring import without_trace
from lorakit.training.training import Training

ON = "training.gradient_checkpointing=true"
EVERYWHERE = ("adapter.targets=[all]", "adapter.shortcuts=[res1,res2,mid,in,cut]")
SWITCHING = (*SEARCH, *EVERYWHERE, "search.every=0.5", "training.accumulate=2")
PREFIX = ("adapter.method=prefix_tuning", "adapter.dropout=0")
FAST = [
    ("bert", (*SWITCHING, "search.scoring=streaming")),
    ("llama", PREFIX),
]
SLOW = [
    ("llama", (*SWITCHING, "search.scoring=streaming")),
    ("bert", ("adapter.updates=[hidden_key]",)),
    ("bert", SWITCHING),
    ("bert", (*SWITCHING, "search.off=freeze", "search.mode=train")),
    ("bert", ("adapter.method=dora", "training.precision=bf16")),
    ("bert", ("adapter.updates=[drop_bp]",)),
    ("bert", ("adapter.method=diff_pruning", "adapter.dropout=0")),
    ("bert", ("search.method=prilora",)),
    ("bert", ("search.method=dylora",)),
    ("bert", PREFIX),
    ("llama", SWITCHING),
    ("llama", ("adapter.method=prompt_tuning", "adapter.dropout=0")),
    ("llama", ("adapter.updates=[hidden_key]",)),
    ("opt", SWITCHING),
    ("gpt2", SWITCHING),
]


@pytest.mark.parametrize(
    ("family", "settings"), [*FAST, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_the_training_is_the_same(bench: Bench, family: str, settings: tuple[str, ...]):
    """Losses, scores of sites, switching, trained tensors; the backbone draws dropout masks, and the adapters do."""
    plain, recomputed = (records(bench.train(*settings, *more, family=family).run_dir) for more in ((), (ON,)))
    assert recomputed == plain


@pytest.mark.slow
def test_an_interrupted_training_may_go_on_the_other_way(bench: Bench, tmp_path):
    settings = (*SWITCHING, "search.scoring=streaming")
    with pytest.raises(Interrupted):
        bench.train(*settings, ON, hooks=[StopAt(2)], run_dir=tmp_path / "run")
    result = bench.train(*settings, run_dir=tmp_path / "run", resume=True)
    assert records(result.run_dir) == records(bench.train(*settings).run_dir)


class Kept:
    """Within it, counts the numbers that autograd keeps for the way back, and the passes through the first layer."""

    def __init__(self, training: Training):
        self.numbers, self.passes = 0, 0
        self.first = training.adapted.backbone.anatomy.layers[0][1]
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.count, lambda tensor: tensor)

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        self.numbers += tensor.numel()
        return tensor

    def __enter__(self) -> Kept:
        inside = next(self.first.children())
        self.handle = inside.register_forward_pre_hook(lambda *_: setattr(self, "passes", self.passes + 1))
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)
        self.handle.remove()


@pytest.mark.parametrize("train_mode", [True, False])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_layer_is_computed_twice_and_little_is_kept(bench: Bench, tmp_path, family: str, train_mode: bool):
    """In training, and in the passes that score without dropout."""
    found = {}
    for switch in ("false", "true"):
        training = bench.prepare(
            tmp_path / switch, *EVERYWHERE, f"training.gradient_checkpointing={switch}", family=family
        )
        batch = training.loader.first(1, torch.Generator())[0]
        with without_trace(training.adapted, train_mode=train_mode, seed=0), Kept(training) as kept:
            dropouts = {m.training for m in training.model.modules() if isinstance(m, torch.nn.Dropout)}
            training.objective.mean(training.model, batch).backward()
            assert dropouts <= {train_mode}
        found[switch] = kept
        assert not any(module.training for module in training.model.modules())
    assert (found["false"].passes, found["true"].passes) == (1, 2)
    assert found["true"].numbers < found["false"].numbers / 5


def test_what_shortcuts_hold_is_of_the_first_pass(bench: Bench, tmp_path):
    """A repeated pass that stayed would keep its whole graph."""
    training = bench.prepare(tmp_path / "run", *EVERYWHERE, ON, family="llama")
    training.model.train()
    shortcuts = training.adapted.shortcuts
    assert shortcuts is not None
    loss = training.objective.mean(training.model, training.loader.first(1, torch.Generator())[0])
    before = [dict(held) for held in shortcuts.held]
    loss.backward()
    after = [dict(held) for held in shortcuts.held]
    assert before[0]
    assert before[1]
    assert all(a.keys() == b.keys() and all(a[key] is b[key] for key in a) for a, b in zip(before, after, strict=True))


def test_embeddings_want_no_gradient_for_it(bench: Bench, tmp_path):
    """Layers below the lowest adapted one stay out of the backward pass."""
    training = bench.prepare(tmp_path / "run", "adapter.targets=[layer.1.output.dense]", ON)
    training.model.train()
    with Kept(training) as kept:
        training.objective.mean(training.model, training.loader.first(1, torch.Generator())[0]).backward()
    assert kept.passes == 1


def test_caches_are_off(bench: Bench, tmp_path):
    training = bench.prepare(tmp_path / "run", ON, family="llama")
    batch = {
        name: tensor for name, tensor in training.loader.first(1, torch.Generator())[0].items() if name != "labels"
    }
    assert training.adapted.model(**batch).past_key_values is None


def test_a_model_that_cannot_is_refused_where_the_recipe_asks(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BertForSequenceClassification, "supports_gradient_checkpointing", False)
    loaded = bench.load(ON)
    with pytest.raises(RecipeError, match="BertForSequenceClassification has no layers that recompute") as caught:
        lorakit.plan(loaded)
    problem = caught.value.problems[0]
    assert problem.key == "training.gradient_checkpointing"
    assert problem.where == loaded.where(problem.key) != ""
    lorakit.plan(bench.load())
