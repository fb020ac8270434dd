"""The rows of a recipe as tokens."""

import logging

from support.runs import Bench

from lorakit.workflow import parts as parts_module
from lorakit.workflow.setup import assemble


def test_rows_are_cut_to_what_the_model_takes(bench: Bench):
    parts = assemble(bench.load("task.max_length=500"))
    assert parts.max_length == parts.backbone.tokenizer.model_max_length == 64
    assert assemble(bench.load("task.max_length=6")).encode("train")["train"].lengths.tolist() == [
        min(length, 6) for length in parts.encode("train")["train"].lengths
    ]


def test_a_long_tokenisation_tells_how_far_it_is(bench: Bench, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="lorakit")
    parts = assemble(bench.load())
    parts.encode("train")
    assert not caplog.messages
    monkeypatch.setattr(parts_module, "TELL_EVERY", -1)
    parts.encode("train")
    rows = len(parts.data.splits["train"])
    assert caplog.messages == [f"train: {rows} of {rows} rows tokenised"]
