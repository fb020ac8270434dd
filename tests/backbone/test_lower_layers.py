"""The lower layers of every family can be stood in for by what they gave, and models of which that is not so are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.models import FAMILIES
from support.thinned import thinned
from torch import nn

from lorakit.backbone.load import Backbone
from lorakit.backbone.lower_layers import LowerLayers, modules_below
from lorakit.errors import RecipeError

Fresh = Callable[..., Backbone]
ROWS = ([2, 9, 5, 17, 8, 3], [2, 30, 3])


def run_of(backbone: Backbone) -> Callable[[Any], torch.Tensor]:
    return lambda batch: backbone.model(**batch).logits


def alone(row: list[int]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}


def padded(rows: tuple[list[int], ...], pad: int) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    mask = torch.tensor([[int(place < len(row)) for place in range(longest)] for row in rows])
    return {"input_ids": torch.tensor([row + [pad] * (longest - len(row)) for row in rows]), "attention_mask": mask}


@pytest.mark.parametrize("family", thinned(FAMILIES, 2))
def test_from_states_of_single_rows_a_batch_has_the_logits_of_the_whole_model(fresh: Fresh, family: str):
    """Padding included, whose states are zeros here and something else there."""
    backbone = fresh(family, layers=3)
    backbone.model.eval()
    batch, run = padded(ROWS, backbone.model.config.pad_token_id), run_of(backbone)
    with torch.no_grad():
        whole = run(batch)
    lower = LowerLayers(backbone, 2)
    lower.check(alone(ROWS[0]), run)
    each = [lower.states(alone(row), run)[0] for row in ROWS]
    states = torch.zeros(2, 6, each[0].shape[-1])
    for place, own in enumerate(each):
        states[place, : len(own)] = own
    with torch.no_grad(), lower.stood_in_for(states):
        again = run(batch)
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(run(batch), whole)  # nothing is given any more
    with torch.no_grad(), lower.stood_in_for(states.flip(-1)):
        assert not torch.allclose(run(batch), whole, rtol=1e-3, atol=1e-4)  # the states are what the logits come from


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_is_below_has_no_dropout_whatever_mode_the_model_is_put_into(fresh: Fresh, family: str):
    backbone = fresh(family, layers=3)
    LowerLayers(backbone, 1)
    backbone.model.train()
    layers = [layer for _, layer in backbone.anatomy.layers]
    assert not any(module.training for module in layers[0].modules())
    assert all(module.training for layer in layers[1:] for module in layer.modules())
    embeddings = backbone.model.get_input_embeddings()
    assert not embeddings.training
    assert backbone.model.training
    backbone.model.eval()
    assert not layers[2].training


def test_below_is_what_was_called_before(fresh: Fresh):
    backbone = fresh("bert", layers=3)
    below = {name for name, module in backbone.model.named_modules() if module in set(modules_below(backbone, 1))}
    assert {"bert.embeddings", "bert.embeddings.dropout", "bert.encoder.layer.0"} <= below
    assert not {name for name in below if "layer.1" in name or name in ("", "bert", "bert.encoder", "bert.pooler")}


@pytest.mark.parametrize("count", [0, 3, 7])
def test_there_must_be_layers_on_both_sides(fresh: Fresh, count: int):
    with pytest.raises(RecipeError) as caught:
        LowerLayers(fresh("bert", layers=3), count)
    (problem,) = caught.value.problems
    assert (problem.key, problem.valid) == ("training.freeze_below", "1 to 2, auto or null")


def test_layers_that_hand_on_more_are_refused(fresh: Fresh):
    """As T5's do, whose first layer computes the position bias of all."""
    backbone = fresh("bert", layers=3)
    layer = backbone.anatomy.layers[0][1]
    own = layer.forward
    lower = LowerLayers(backbone, 1)
    layer.forward = lambda *args, **kwargs: lower.catch((own(*args, **kwargs), torch.ones(1)))
    with pytest.raises(RecipeError, match="hand on more than hidden states"):
        lower.states(alone(ROWS[0]), run_of(backbone))


def test_what_the_upper_layers_take_from_elsewhere_is_noticed(fresh: Fresh):
    """A head that reads the first layer too."""
    backbone = fresh("bert", layers=3)
    seen: list[torch.Tensor] = []
    inner = backbone.anatomy.layers[0][1].get_submodule("attention")
    inner.register_forward_hook(
        lambda module, args, out: seen.append((out[0] if isinstance(out, tuple) else out).mean())
    )
    own = backbone.model.classifier.forward
    backbone.model.classifier.forward = lambda x: own(x) + (seen.pop() if seen else 0.0)
    lower = LowerLayers(backbone, 1)
    seen.clear()

    def run(batch: Any) -> torch.Tensor:
        seen.clear()
        return backbone.model(**batch).logits

    with pytest.raises(RecipeError, match="need more of the lower ones"):
        lower.check(alone(ROWS[0]), run)


def test_dropout_that_cannot_be_switched_off_is_noticed(fresh: Fresh):
    backbone = fresh("bert", layers=3)
    embeddings = backbone.model.get_input_embeddings()
    embeddings.register_forward_hook(
        lambda module, args, out: nn.functional.dropout(out, 0.5, training=backbone.model.training)
    )
    with pytest.raises(RecipeError, match="goes on drawing at random"):
        LowerLayers(backbone, 1).check(alone(ROWS[0]), run_of(backbone))


def test_something_new_below_has_to_train(fresh: Fresh):
    backbone = fresh("bert", layers=3)
    backbone.model.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(RecipeError, match="new, and has to be trained"):
        LowerLayers(backbone, 1)
