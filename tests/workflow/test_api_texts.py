"""One text where several may stand is the only one: nobody means its letters."""

import pytest
from support.runs import Bench

import lorakit
from lorakit.errors import UsageError
from lorakit.recipe.overlays import as_list
from lorakit.workflow.experiments.compare import CompareRequest
from lorakit.workflow.experiments.intrinsic_spec import IntrinsicRequest


def test_an_override_alone(bench: Bench):
    recipe = bench.load("training.lr=0.5")
    assert lorakit.load_recipe(recipe, "training.lr=0.25").recipe.training.lr == 0.25
    assert as_list(("a", "b")) == ["a", "b"]


def test_a_text_alone_in_an_experiment():
    request = IntrinsicRequest("a.yaml", "training.lr=1", kinds="did", slurm="time=1")
    assert (request.overrides, request.kinds, request.slurm) == (["training.lr=1"], ["did"], ["time=1"])
    assert CompareRequest("a.yaml").arms == ["a.yaml"]


@pytest.mark.parametrize("several", [lorakit.combine, lambda run: lorakit.ensemble(run, out="both")])
def test_a_run_alone_is_too_few(several):
    with pytest.raises(UsageError, match=r"two runs or more|nothing to combine"):
        several("runs/one-0")
