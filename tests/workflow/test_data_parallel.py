"""What processes look for and send in a step: as little as the recipe allows."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedDataParallelKwargs
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lorakit.workflow.data_parallel import all_reached, may_be_unused, prepared, tell_no_more_than_needed
from lorakit.workflow.setup import adapt, assemble


def adapted_by(bench, *settings, **kind):
    parts = assemble(bench.load(*settings, **kind))
    return parts.recipe, adapt(parts, statistics=None)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (["search.method=none"], {}),
        (["search.method=none", "model.readout=pair"], {"kind": "pair"}),
        (["search.method=none", "training.gradient_checkpointing=true"], {"family": "llama"}),
        (["search.method=none", "adapter.method=dora"], {}),
    ],
)
def test_where_every_parameter_has_a_gradient_none_is_looked_for(bench, settings, kind):
    recipe, adapted = adapted_by(bench, *settings, **kind)
    drawn = torch.get_rng_state()
    assert not may_be_unused(recipe, adapted)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(tensor.parameter.grad is None for tensor in adapted.trained())


@pytest.mark.parametrize(
    "settings",
    [
        ["search.method=heterolora", "search.enable=0.5"],
        ["search.method=none", "adapter.updates=[drop_bp]"],
        ["search.method=none", "training.freeze_below=1"],
    ],
)
def test_what_switches_or_leaves_out_is_looked_for(bench, settings):
    assert may_be_unused(*adapted_by(bench, *settings))


def test_a_parameter_that_the_outputs_do_not_depend_on_is_seen(bench):
    recipe, adapted = adapted_by(bench, "search.method=none")
    assert all_reached(adapted)
    adapted.model.config.encoder_layerdrop = 0.1
    assert may_be_unused(recipe, adapted)
    adapted.model.config.encoder_layerdrop = 0.0
    assert not may_be_unused(recipe, adapted)
    adapted.model.register_parameter("idle", nn.Parameter(torch.ones(2)))
    adapted.new_parts.append("idle")
    assert may_be_unused(recipe, adapted)


def test_buffers_are_sent_where_they_change(bench):
    recipe, adapted = adapted_by(bench, "search.method=none")
    handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    for processes, found in ((1, (True, True)), (2, (False, False))):
        tell_no_more_than_needed(SimpleNamespace(num_processes=processes, ddp_handler=handler), recipe, adapted)
        assert (handler.find_unused_parameters, handler.broadcast_buffers) == found
    adapted.model.norm = nn.BatchNorm1d(2, affine=False)
    tell_no_more_than_needed(SimpleNamespace(num_processes=2, ddp_handler=handler), recipe, adapted)
    assert handler.broadcast_buffers


@pytest.fixture
def alone():
    """A group of one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_what_torch_says_of_its_arguments_names_is_not_said_again(alone):
    def prepare(model: nn.Module) -> nn.Module:
        warnings.warn("another", FutureWarning, stacklevel=1)
        return DistributedDataParallel(model, broadcast_buffers=False)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = prepared(SimpleNamespace(prepare_model=prepare), nn.Linear(2, 2))
    assert [str(each.message) for each in said] == ["another"]
    assert model.broadcast_buffers is False
