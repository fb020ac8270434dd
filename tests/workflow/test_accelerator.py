"""Which ways of spreading a training over devices there are, precisions and trackers."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from support.runs import Bench

from lorakit.errors import RecipeError, UsageError
from lorakit.workflow.accelerator import DATA_PARALLEL, ENGINES, check_trackers, make_accelerator


@pytest.mark.parametrize("kind", [kind for kind in DistributedType if kind.value not in ("NO", *DATA_PARALLEL)])
def test_what_does_not_keep_the_model_whole_is_refused(bench: Bench, kind: DistributedType):
    recipe = bench.load().recipe
    with (
        mock.patch.object(Accelerator, "distributed_type", kind),
        pytest.raises(UsageError, match=f"training under {kind.value} is not possible") as caught,
    ):
        make_accelerator(recipe)
    hint = caught.value.problems[0].hint
    assert "accelerate launch --multi_gpu" in hint
    assert "--use_fsdp --fsdp_version 2 --num_processes 2 -m lorakit train RECIPE" in hint


@pytest.mark.parametrize(("switch", "engine"), ENGINES.items())
def test_other_engines_are_refused_before_accelerate_looks_for_their_packages(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, switch: str, engine: str
):
    monkeypatch.setenv(switch, "true")
    with pytest.raises(UsageError, match=f"training under {engine} is not possible") as caught:
        make_accelerator(bench.load().recipe)
    assert "--fsdp_version 2" in caught.value.problems[0].hint


def test_data_parallel_kinds_are_those_of_accelerate():
    assert set(DATA_PARALLEL) <= {kind.value for kind in DistributedType}


def test_one_process_may_use_several_precisions(bench: Bench):
    """Accelerate keeps the first precision of a process for ever, unless it is told not to."""
    recipe = bench.load().recipe
    for precision, theirs in (("bf16", "bf16"), ("fp32", "no"), ("bf16", "bf16")):
        settings = replace(recipe, training=replace(recipe.training, precision=precision))
        assert make_accelerator(settings).mixed_precision == theirs


def test_each_keeps_its_precision_when_another_is_made(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    recipe = bench.load().recipe
    half, full = (
        make_accelerator(replace(recipe, training=replace(recipe.training, precision=precision)))
        for precision in ("bf16", "fp32")
    )
    assert (half.mixed_precision, full.mixed_precision) == ("bf16", "no")
    monkeypatch.setattr("torch.get_autocast_dtype", lambda device: torch.float16)  # a GPU's, where none is asked for
    model = half.prepare_model(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    for context, dtype in ((half.autocast(), torch.bfloat16), (full.autocast(), torch.float32)):
        with context:
            assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == dtype
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    model(torch.ones(1, 2))
    assert seen == [torch.bfloat16]


def test_all_trackers_are_whatever_is_installed(bench: Bench):
    check_trackers(bench.load("run.trackers=[all]").recipe)
    with pytest.raises(RecipeError, match="tracker 'wandb' is not installed"):
        check_trackers(bench.load("run.trackers=[wandb]").recipe)
