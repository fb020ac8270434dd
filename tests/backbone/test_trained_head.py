"""A checkpoint's head: kept by its label names, in the task's order, else new; and it is said."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers
from support.models import TinyModels, save
from support.runs import edited_json
from support.thinned import thinned
from transformers import AutoModelForSequenceClassification

from lorakit.backbone.load import Backbone
from lorakit.backbone.trained_head import output_names
from lorakit.errors import RecipeError

Load = Callable[..., Backbone]
Saved = Callable[..., Path]
LAYERS = {"bert": "classifier", "roberta": "classifier.out_proj", "llama": "score", "distilbert": "classifier"}


@pytest.fixture
def saved(tiny: TinyModels, tmp_path: Path) -> Saved:
    """``saved(family, names)``: a checkpoint with a random head, whose biases differ too, for outputs of these names."""

    def make(family: str, names: Sequence[str], **config: object) -> Path:
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(
            tiny(family), id2label=dict(enumerate(names)), num_labels=len(names), **config
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.startswith(model.base_model_prefix):
                    parameter.add_(torch.randn_like(parameter))
        save(model, tmp_path / "made")
        for file in tiny(family).glob("token*"):
            shutil.copy(file, tmp_path / "made")
        return tmp_path / "made"

    return make


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(torch.tensor([[2, 5, 9, 7]])).logits[0]
    return result


def plain_logits(folder: Path) -> torch.Tensor:
    return logits(AutoModelForSequenceClassification.from_pretrained(folder).eval())


@pytest.mark.parametrize("family", LAYERS)
def test_outputs_are_put_into_the_task_s_order(family: str, saved: Saved, load: Load) -> None:
    folder = saved(family, ["b", "c", "a"])
    plain = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval().double()
    )  # 32 bits of an 82 are no millionth
    theirs = dict(zip(["b", "c", "a"], logits(plain).tolist(), strict=True))
    kept = load(folder, labels=("a", "b", "c"))
    assert logits(copy.deepcopy(kept.model).double()).tolist() == pytest.approx(
        [theirs[name] for name in "abc"], abs=1e-6
    )
    assert (kept.head.kept, kept.head.order) == (True, [2, 0, 1])
    assert kept.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert all(kept.model.get_parameter(name).requires_grad for name in kept.new_parts)
    assert "head for b, c, a: it is kept and trained on, its outputs in the order a, b, c" in kept.notes[-1]


def test_the_same_names_in_the_same_order_change_nothing(saved: Saved, load: Load) -> None:
    folder = saved("roberta", ["NO", "yes"])
    kept = load(folder)
    assert torch.equal(logits(kept.model), plain_logits(folder))
    assert (kept.head.kept, kept.head.order) == (True, [])
    assert "it is kept and trained on" in kept.notes[-1]


@pytest.mark.parametrize("family", thinned(LAYERS, 3))
@pytest.mark.parametrize(
    ("names", "wanted"), [(["LABEL_0", "LABEL_1"], None), (["yes", "no"], "new"), (["no", "yes"], "new")]
)
def test_other_names_get_a_new_output_layer(
    family: str, names: list[str], wanted: str | None, saved: Saved, load: Load, tiny: TinyModels
) -> None:
    """Drawn as it is for a checkpoint without a head; what the family has before it stays."""
    folder = saved(family, names)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    made, again, other = (
        load(folder, head=wanted, seed=5),
        load(folder, head=wanted, seed=5),
        load(folder, head=wanted, seed=6),
    )
    assert not made.head.kept
    assert made.new_parts == load(tiny(family)).new_parts
    for name, parameter in made.model.named_parameters():
        if name.startswith(f"{LAYERS[family]}."):
            assert torch.equal(parameter, again.model.get_parameter(name))
            assert not torch.equal(parameter, theirs.get_parameter(name))
            if name.endswith("weight"):
                assert parameter.detach().std() == pytest.approx(0.02, rel=0.4)
                assert not torch.equal(parameter, other.model.get_parameter(name))
        else:
            assert torch.equal(parameter, theirs.get_parameter(name)), name
    assert f"head for {', '.join(names)}: a new one takes its place" in made.notes[-1]
    assert ("no, yes" if wanted is None else "as model.head says") in made.notes[-1]


def test_a_head_of_another_size_is_replaced(saved: Saved, load: Load) -> None:
    new = load(saved("roberta", ["x", "y", "z"]))
    assert new.model.classifier.out_proj.weight.shape == (2, 32)
    assert "head for 3 labels (x, y, z): a new one takes its place; the labels are no, yes" in new.notes[-1]
    assert not new.head.kept


def test_keep_takes_other_names_in_the_checkpoint_s_order_and_says_so(saved: Saved, load: Load) -> None:
    folder = saved("bert", ["LABEL_0", "LABEL_1"])
    kept = load(folder, head="keep")
    assert torch.equal(logits(kept.model), plain_logits(folder))
    assert (kept.head.kept, kept.head.loud) == (True, True)
    assert "calls its outputs LABEL_0, LABEL_1: they are taken, in this order, for no, yes" in kept.head.note


def test_keep_orders_what_can_be_ordered(saved: Saved, load: Load) -> None:
    folder = saved("bert", ["yes", "no"])
    kept = load(folder, head="keep")
    assert torch.equal(logits(kept.model), plain_logits(folder).flip(0))
    assert not kept.head.loud


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x", "y", "z"], r"has outputs for 3 labels \(x, y, z\), and the labels are no, yes"),
        (None, "brings no trained head"),
    ],
)
def test_keep_is_refused_where_there_is_nothing_to_keep(
    names: list[str] | None, message: str, saved: Saved, load: Load, tiny: TinyModels
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(tiny("bert") if names is None else saved("bert", names), head="keep")
    assert [problem.key for problem in caught.value.problems] == ["model.head"]


def test_a_head_for_a_number_is_kept_for_a_number_alone(saved: Saved, load: Load) -> None:
    folder = saved("bert", ["score"], problem_type="regression")
    kept = load(folder, labels=(), regression=True)
    assert torch.equal(logits(kept.model), plain_logits(folder))
    assert kept.head.kept
    assert "for a number: a new one takes its place; the labels are no, yes" in load(folder).notes[-1]
    assert not load(saved("bert", ["no", "yes"], problem_type="regression")).head.kept
    assert "the labels are a number" in load(saved("bert", ["no", "yes"]), labels=(), regression=True).notes[-1]


def test_a_head_whose_outputs_cannot_be_told_is_new(saved: Saved, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved("roberta", ["yes", "no"])
    monkeypatch.setattr("lorakit.backbone.trained_head.output_names", lambda model, among: [])
    made = load(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    assert not made.head.kept
    assert "a new one takes its place; its outputs cannot be put into the order no, yes" in made.notes[-1]
    assert not any(torch.equal(made.model.get_parameter(n), theirs.get_parameter(n)) for n in made.new_parts)


def test_a_checkpoint_without_a_head_is_as_it_was(
    tiny: TinyModels, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No note, no draw of its own."""
    monkeypatch.setattr("lorakit.backbone.trained_head.start_anew", lambda *_: pytest.fail("drew a head twice"))
    backbone = load(tiny("roberta"))
    assert (backbone.head.kept, backbone.head.note) == (False, "")


def test_names_that_leave_an_output_out_are_no_names(saved: Saved, load: Load) -> None:
    folder = saved("bert", ["yes", "no"])
    with edited_json(folder / "config.json") as config:
        config["id2label"] = {"1": "yes", "2": "no"}
    assert not load(folder).head.kept


HEADS = {
    "BartConfig": ["classification_head.out_proj.weight", "classification_head.out_proj.bias"],
    "XLNetConfig": ["logits_proj.weight", "logits_proj.bias"],
    "XLMConfig": ["sequence_summary.summary.weight", "sequence_summary.summary.bias"],
    "FunnelConfig": ["classifier.linear_out.weight", "classifier.linear_out.bias"],
    "AlbertConfig": ["classifier.weight", "classifier.bias"],
    "CTRLConfig": ["classifier.weight"],
    "GemmaConfig": ["score.weight"],
}
TINY = {
    "vocab_size": 9,
    "hidden_size": 32,
    "d_model": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_layers": 2,
    "n_heads": 4,
    "emb_dim": 32,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_output_layer_of_every_kind_of_head(kind: str) -> None:
    """With as many labels as the model is wide, so that no shape gives it away."""
    config = getattr(transformers, kind)(**TINY, num_labels=32)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    inner = {id(parameter) for parameter in model.base_model.parameters()}
    outside = [name for name, parameter in model.named_parameters() if id(parameter) not in inner]
    state = torch.get_rng_state()
    assert output_names(model, outside) == HEADS[kind]
    assert torch.equal(torch.get_rng_state(), state)
