"""``model.head_start: fitted``: what the head starts at, for each read-out; and features that are computed once a run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.thinned import crossed, thinned
from torch import nn

import lorakit
from lorakit.errors import RecipeError
from lorakit.tasks.linear_probe import fit_outputs
from lorakit.training.schedule import make_schedule
from lorakit.workflow import frozen_features
from lorakit.workflow.head_start import start_head
from lorakit.workflow.plan import head_notes
from lorakit.workflow.readout import settle_readout
from lorakit.workflow.setup import assemble

LAYERS = {"bert": "classifier", "roberta": "classifier.out_proj", "llama": "score"}


@pytest.mark.parametrize(("readout", "family"), crossed(["own", "cls", "mean", "layers", "pair"], LAYERS, turn=0))
def test_a_fitted_head_starts_as_a_linear_model_of_what_it_reads(bench, family, readout):
    if (family, readout) in (("llama", "cls"), ("llama", "pair")):
        pytest.skip("a decoder has no such token")
    kind = "pair" if readout == "pair" else "one"
    parts = assemble(bench.load("model.head_start=fitted", f"model.readout={readout}", family=family, kind=kind))
    model = parts.backbone.model
    layer = LAYERS[family] if readout == "own" else f"{readout}_head"
    owner = model.get_submodule(layer)
    before = owner.weight.detach().clone()
    start_head(parts)
    assert not torch.allclose(before, owner.weight)
    # Whatever goes into the output layer, here seen by a hook, for all rows one at a time.
    seen = []
    handle = owner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoded = parts.encode("train")["train"]
    for row in range(len(encoded)):
        batch = encoded.collate([row])
        with torch.no_grad():
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    features = np.stack([each[0, -1].numpy() if each.ndim == 3 else each[0].numpy() for each in seen])
    weight, bias = fit_outputs(features, encoded.labels.numpy(), parts.task)
    assert owner.weight.detach().numpy() == pytest.approx(weight / 4, rel=1e-2, abs=1e-3)
    if owner.bias is not None:
        assert owner.bias.detach().numpy() == pytest.approx(bias / 4, rel=1e-2, abs=1e-2)


def test_numbers_start_as_they_are_fitted(bench):
    parts = assemble(bench.load("model.head_start=fitted", "model.readout=mean", kind="number"))
    features = frozen_features.training_features(parts, "mean")["mean"]
    weight, bias = fit_outputs(features, frozen_features.labels_looked_at(parts), parts.task)
    start_head(parts)
    assert parts.backbone.model.mean_head.weight.detach().numpy() == pytest.approx(weight, abs=1e-6)
    assert parts.backbone.model.mean_head.bias.detach().numpy() == pytest.approx(bias, abs=1e-6)


def test_rows_in_windows_have_the_mean_of_their_windows_features(bench):
    options = ["task.long=windows", "task.max_length=6", "model.readout=mean", "model.head_start=fitted"]
    parts = assemble(bench.load(*options))
    found = frozen_features.training_features(parts, "mean")["mean"]
    encoded = parts.encode("train")["train"]
    batch = encoded.collate([3, 4])
    with torch.no_grad():
        states = parts.backbone.model.base_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    each = [h[m == 1].mean(0).numpy() for h, m in zip(states, batch["attention_mask"], strict=True)]
    window_of = batch["window_of"].tolist()
    assert len(window_of) > 2
    for row in (0, 1):
        expected = np.mean([each[at] for at, owner in enumerate(window_of) if owner == row], axis=0)
        assert found[3 + row] == pytest.approx(expected, abs=1e-4)


def test_the_frozen_rows_are_looked_at_once(bench, tmp_path, monkeypatch):
    """The baseline, the choice and the head's start share one pass over the training rows; the baseline's held-out rows are another."""
    passes, read = [], frozen_features.read_features

    def counted(parts, encoded, names):
        passes.append((len(encoded), set(names)))
        return read(parts, encoded, names)

    monkeypatch.setattr(frozen_features, "read_features", counted)
    options = ["model.readout=auto", "model.head_start=fitted", "evaluation.baselines=[frozen]", "training.max_steps=1"]
    bench.train(*options, run_dir=tmp_path / "run")
    assert passes == [(45, {"own", "cls", "mean", "layers"})]


def test_features_are_read_without_a_trace(bench):
    parts = assemble(bench.load("model.head_start=fitted"))
    model = parts.backbone.model.train()
    before, drawn = list(model.named_modules()), torch.get_rng_state()
    first = frozen_features.training_features(parts, "own", "mean")
    assert list(model.named_modules()) == before
    assert model.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert frozen_features.training_features(parts, "own")["own"] is first["own"]


def test_outputs_that_are_not_one_linear_layer_are_refused(bench):
    parts = assemble(bench.load("model.head_start=fitted"))
    parts.backbone.model.classifier = nn.Sequential(parts.backbone.model.classifier)
    parts.backbone.new_parts[:] = ["classifier.0.weight", "classifier.0.bias"]
    with pytest.raises(RecipeError, match="not one linear layer") as caught:
        start_head(parts)
    assert caught.value.problems[0].key == "model.head_start"


@pytest.fixture
def goes_on(bench, tmp_path):
    """``goes_on(*options, kind=...)``: the parts of a training from a checkpoint whose head was trained on the same labels."""

    def make(*options, kind="one"):
        checkpoint = tmp_path / "merged"
        if not checkpoint.exists():
            run = bench.train("training.max_steps=1", kind=kind, run_dir=tmp_path / "first").run_dir
            lorakit.merge(run, out=checkpoint)
        loaded = bench.load(*options, kind=kind)
        model = replace(loaded.recipe.model, name=str(checkpoint))
        return replace(loaded, recipe=replace(loaded.recipe, model=model)), checkpoint

    return make


@pytest.mark.parametrize("head", [[], ["model.head=keep"]])
def test_a_trained_head_of_the_same_labels_is_kept_and_not_fitted(goes_on, head):
    loaded, checkpoint = goes_on("model.readout=auto", "model.head_start=fitted", *head)
    _, parts, choice = settle_readout(loaded, assemble(loaded))
    start_head(parts)
    assert choice.chosen == "own"
    assert parts.features == {}
    assert "kept and trained on, and not fitted" in parts.backbone.head.note
    assert torch.equal(
        parts.backbone.model.classifier.weight, load_file(checkpoint / "model.safetensors")["classifier.weight"]
    )
    assert head_notes(parts, make_schedule(parts.recipe, 45)) == []


def test_a_trained_head_is_fitted_anew_where_that_is_asked_for(goes_on):
    loaded, _ = goes_on("model.readout=own", "model.head_start=fitted", "model.head=new")
    parts = assemble(loaded)
    start_head(parts)
    assert not parts.backbone.head.kept
    assert parts.features.keys() == {"own"}


def test_a_number_has_no_name_by_which_its_head_could_be_known(goes_on):
    loaded, _ = goes_on("model.readout=own", "model.head_start=fitted", kind="number")
    assert not assemble(loaded).backbone.head.kept
    loaded, _ = goes_on("model.readout=own", "model.head_start=fitted", "model.head=keep", kind="number")
    assert assemble(loaded).backbone.head.kept


@pytest.mark.parametrize("kind", thinned(["number", "several", "pair"], 3))
def test_heads_of_every_kind_of_task_start_fitted(bench, kind, tmp_path):
    options = ["model.readout=auto", "model.head_start=fitted", "training.max_steps=1"]
    result = bench.train(*options, kind=kind, run_dir=tmp_path / "run")
    assert result.readout.measure == ("squared error" if kind == "number" else "log-loss")
    assert lorakit.evaluate(result.run_dir).scores == pytest.approx(result.last)
