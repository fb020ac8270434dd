"""``model.head: probe`` and ``model.pooling: mean``: what the head starts at, and what it reads."""

import json

import numpy as np
import pytest
import torch
from support.runs import StopAt, records
from transformers import AutoModelForSequenceClassification, BartConfig, BartForSequenceClassification

import lorakit
from lorakit.backbone.mean_pooling import read_mean
from lorakit.errors import Interrupted, LorakitError, RecipeError, RunError
from lorakit.tasks.linear_probe import fit_outputs
from lorakit.workflow.parts import Parts
from lorakit.workflow.probe import probe_head
from lorakit.workflow.setup import assemble

MEAN = ("model.pooling=mean", "model.head=probe")


def parts_of(bench, *options, family="bert") -> Parts:
    return assemble(bench.load(*options, family=family))


def logits_of(parts, rows):
    encoded = parts.encode("train")["train"]
    batch = encoded.collate(rows)
    inputs = {name: batch[name] for name in batch if name != "labels"}
    with torch.no_grad():
        return parts.backbone.model.eval()(**inputs).logits.numpy(), inputs


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "llama"])
def test_a_head_on_the_mean_reads_the_mean_of_all_tokens(bench, family):
    parts = parts_of(bench, "model.pooling=mean", family=family)
    model = parts.backbone.model
    logits, inputs = logits_of(parts, [0, 5, 9])
    with torch.no_grad():
        states = model.base_model(**inputs).last_hidden_state
    for row in range(3):
        alone = states[row][inputs["attention_mask"][row] == 1].mean(0)
        expected = alone @ model.mean_head.weight.T + model.mean_head.bias
        assert logits[row] == pytest.approx(expected.detach().numpy(), abs=1e-5)
    assert parts.backbone.new_parts == ["mean_head.weight", "mean_head.bias"]


@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
@pytest.mark.parametrize("pooling", ["default", "mean"])
def test_a_probed_head_starts_as_a_linear_model_of_what_it_reads(bench, family, pooling):
    parts = parts_of(bench, "model.head=probe", f"model.pooling={pooling}", family=family)
    before, _ = logits_of(parts, range(8))
    encoded = parts.encode("train")["train"]
    probe_head(parts, encoded)
    after, _ = logits_of(parts, range(8))
    assert not np.allclose(before, after)
    # Whatever goes into the output layer, here seen by a hook, for all rows one at a time.
    model = parts.backbone.model
    layer = {"bert": "classifier", "roberta": "classifier.out_proj", "llama": "score"}[family]
    layer = "mean_head" if pooling == "mean" else layer
    seen = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for row in range(len(encoded)):
        batch = encoded.collate([row])
        with torch.no_grad():
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    features = np.stack([each[0, -1].numpy() if each.ndim == 3 else each[0].numpy() for each in seen])
    weight, bias = fit_outputs(features, encoded.labels.numpy(), parts.task)
    owner = model.get_submodule(layer)
    assert owner.weight.detach().numpy() == pytest.approx(weight, rel=1e-2, abs=1e-3)
    if owner.bias is not None:
        assert owner.bias.detach().numpy() == pytest.approx(bias, rel=1e-2, abs=1e-2)


def test_a_run_on_the_mean_goes_through_everything(bench, tmp_path):
    result = bench.train(*MEAN, "training.max_steps=4", run_dir=tmp_path / "run")
    texts = ["a happy film", "what a sad and long night it was"]
    chances = lorakit.load(result.run_dir).predict_proba(texts)
    assert lorakit.evaluate(result.run_dir).scores == pytest.approx(result.last)
    merged = lorakit.merge(result.run_dir)
    assert not merged.plain
    assert lorakit.load(merged.out).predict_proba(texts) == pytest.approx(chances, abs=1e-5)
    with pytest.raises((ValueError, OSError, KeyError)):
        AutoModelForSequenceClassification.from_pretrained(merged.out)
    with pytest.raises(RunError, match="mean of all tokens"):
        lorakit.export(result.run_dir)


def test_a_run_on_the_mean_that_was_stopped_ends_as_if_it_had_not_been(bench, tmp_path):
    options = [*MEAN, "training.max_steps=4"]
    bench.train(*options, run_dir=tmp_path / "whole")
    with pytest.raises(Interrupted):
        bench.train(*options, run_dir=tmp_path / "part", hooks=[StopAt(2)])
    bench.train(*options, run_dir=tmp_path / "part", resume=True)
    assert records(tmp_path / "whole") == records(tmp_path / "part")


def test_models_without_states_of_the_texts_tokens_are_refused():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = BartForSequenceClassification(BartConfig(vocab_size=20, **sizes, **heads))
    with pytest.raises(RecipeError, match="cannot be averaged") as caught:
        read_mean(model, "some/bart")
    assert caught.value.problems[0].key == "model.pooling"


def test_runs_whose_heads_read_other_things_are_not_combined(bench, tmp_path):
    runs = [
        bench.train("training.max_steps=2", f"model.pooling={pooling}", run_dir=tmp_path / pooling).run_dir
        for pooling in ("default", "mean")
    ]
    with pytest.raises(LorakitError, match=r"model\.pooling"):
        lorakit.combine(runs, out=tmp_path / "both")


def test_runs_that_read_long_texts_in_other_ways_are_not_combined(bench, tmp_path):
    runs = [
        bench.train("training.max_steps=1", f"task.long={long}", run_dir=tmp_path / long).run_dir
        for long in ("truncate", "windows")
    ]
    with pytest.raises(LorakitError, match=r"task\.long of this run is windows and mean, and of .*truncate"):
        lorakit.combine(runs, out=tmp_path / "both")


def test_own_data_starts_from_the_mean_where_the_folder_says_that(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"film {row},{'ab'[row % 2]}\n" for row in range(10))
    (tmp_path / "a.csv").write_text("text,label\n" + rows)
    (tmp_path / "model" / "1_Pooling").mkdir(parents=True)
    stated = tmp_path / "model" / "1_Pooling" / "config.json"
    for says, expected in ((True, "mean"), (False, "default")):
        stated.write_text(json.dumps({"pooling_mode_mean_tokens": says}))
        assert lorakit.load_recipe("a.csv", ["model.name=model"]).recipe.model.pooling == expected
    assert lorakit.load_recipe("a.csv").recipe.model.pooling == "mean"
    assert lorakit.load_recipe("a.csv", ["model.name=roberta-base"]).recipe.model.pooling == "default"
