"""Texts longer than a model is to read, through training, evaluation, prediction and a merged folder."""

import numpy as np
import pytest
import torch

import lorakit

FEW = ("training.max_steps=4", "training.batch_size=8", "task.max_length=6", "evaluation.baselines=[frozen]")
LONG = "a film of happy days and of sad nights and of happy ends"


@pytest.fixture(scope="module", params=["head_tail", "windows"])
def run(request, bench, tmp_path_factory):
    options = [*FEW, f"task.long={request.param}"] + ["task.window_pooling=max"] * (request.param == "windows")
    return request.param, bench.train(*options, run_dir=tmp_path_factory.mktemp("long") / "run")


def test_a_run_reads_long_texts_as_it_was_trained(run):
    long, result = run
    classifier = lorakit.load(result.run_dir)
    words = LONG.split()
    chances = classifier.predict_proba([LONG])[0]
    # Six tokens are four words between [CLS] and [SEP]: one of the beginning and three of the end; windows start three words apart.
    texts = [" ".join([*words[:1], *words[-3:]])]
    if long == "windows":
        texts = [" ".join(words[start : start + 4]) for start in (0, 3, 6, 8)]
    classifier.temperature = 1.0
    pieces = classifier.predict_proba(texts)
    chances = classifier.predict_proba([LONG])[0]
    logits = np.log(pieces)  # up to a constant each, which two classes' difference does not have
    differences = logits[:, 1] - logits[:, 0]
    if long == "head_tail":
        assert np.log(chances[1] / chances[0]) == pytest.approx(differences[0], abs=1e-5)
    else:
        raw = [
            classifier.objective.logits(classifier.model, dict(classifier.tokenizer(text, return_tensors="pt")))
            for text in texts
        ]
        highest = torch.cat(raw).amax(0).softmax(-1).detach().numpy()
        assert chances == pytest.approx(highest, abs=1e-5)


def test_a_merged_folder_reads_them_so_too(run, tmp_path):
    _, result = run
    merged = lorakit.merge(result.run_dir, out=tmp_path / "merged")
    own = lorakit.load(result.run_dir).predict_proba([LONG, "happy"])
    assert lorakit.load(merged.out).predict_proba([LONG, "happy"]) == pytest.approx(own, abs=1e-5)
    assert not merged.plain  # which transformers would cut at their end


def test_an_exported_adapter_tells_that_peft_reads_other_texts(run, tmp_path, caplog):
    long, result = run
    lorakit.export(result.run_dir, out=tmp_path / "peft")
    assert f"task.long={long}" in caplog.text


def test_a_run_is_scored_as_it_was_in_the_training(run):
    _, result = run
    assert lorakit.evaluate(result.run_dir).scores == pytest.approx(result.last)
