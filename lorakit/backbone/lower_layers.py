"""The lower layers of a model, frozen: run by the model's own code, row by row, or stood in for by the states they gave.

    tokens -> embeddings -> layer 0 -> ... -> layer N - 1  =>  states (length, width)  =>  layer N -> ... -> head
                                                               |
                                   given again, every layer below N returns them at once, and the model goes on from there

What the model computes around its layers (masks, positions, rotary angles, token types) it goes on computing: only the layers are stood in
for. So families whose layers hand on nothing but their hidden states are served alike; ``LowerLayers.check`` says so of a model by
trying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lorakit.backbone.load import Backbone
from lorakit.errors import RecipeError

KEY = "training.freeze_below"

Batch = Mapping[str, torch.Tensor]
Run = Callable[[Batch], torch.Tensor]
"""A batch (of one row) through the whole model, in the training's precision and on its device -> logits."""


class Reached(Exception):
    """The last of the lower layers has been computed: nobody needs the rest of this pass."""


class LowerLayers:
    """Layers 0 to ``count`` - 1 of a backbone, and what is computed before them. In evaluation mode from now on: they have no dropout.

    Raises RecipeError (key ``training.freeze_below``) where there are not more layers than that, or something below them is to train.
    """

    def __init__(self, backbone: Backbone, count: int):
        self.backbone, self.count = backbone, count
        self.given: torch.Tensor | None = None
        self.caught: torch.Tensor | None = None
        self.catching = False
        for module in modules_below(backbone, count):
            hold_in_eval(module)
            if any(parameter.requires_grad for parameter in module.parameters()):
                raise self.refusal("a part of the model below that layer is new, and has to be trained")
        for number, (_, layer) in enumerate(backbone.anatomy.layers[:count]):
            self.stand_in(layer, last=number == count - 1)

    def stand_in(self, layer: nn.Module, *, last: bool) -> None:
        """Let ``layer`` return what is given, where something is; and let the last one of them be caught."""
        own: Callable[..., Any] = layer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.given is not None:
                return (self.given, *self.others) if self.is_tuple else self.given
            out = own(*args, **kwargs)
            if last and self.catching:
                self.catch(out)
            return out

        layer.forward = forward

    def catch(self, out: Any) -> None:
        """Keep what the last of the lower layers returned, and in which form. RecipeError where it is more than hidden states."""
        self.is_tuple = isinstance(out, tuple)
        self.caught = out[0] if self.is_tuple else out
        self.others = tuple(out[1:]) if self.is_tuple else ()
        if any(other is not None for other in self.others) or not isinstance(self.caught, torch.Tensor):
            raise self.refusal("its layers hand on more than hidden states")
        raise Reached

    @torch.no_grad()
    def states(self, batch: Batch, run: Run) -> torch.Tensor:
        """What layer ``count`` - 1 gives for a batch without padding (rows, length, width), as it comes out of it."""
        self.catching, self.caught = True, None
        try:
            run(batch)
        except Reached:
            pass
        finally:
            self.catching = False
        shape = batch["input_ids"].shape
        found = self.caught
        if found is None or found.shape[:-1] != shape:
            raise self.refusal("it does not compute a state for each token, layer after layer")
        self.caught = None
        return found

    @contextmanager
    def stood_in_for(self, states: torch.Tensor) -> Iterator[None]:
        """In the block the layers return ``states`` (rows, length, width) of the batch that is passed."""
        self.given = states
        try:
            yield
        finally:
            self.given = None

    @torch.no_grad()
    def check(self, batch: Batch, run: Run) -> None:
        """RecipeError unless this batch, without padding, has the same logits from its states as from its tokens, in either mode."""
        model = self.backbone.model
        training = model.training
        model.train()
        states = self.states(batch, run)
        model.eval()
        if not torch.equal(states, self.states(batch, run)):
            raise self.refusal("something below that layer goes on drawing at random in training")
        whole = run(batch)
        with self.stood_in_for(states):
            again = run(batch)
        model.train(training)
        if not torch.allclose(again, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
            raise self.refusal("its upper layers need more of the lower ones than their states")

    def refusal(self, why: str) -> RecipeError:
        """Why this model cannot."""
        layers = len(self.backbone.anatomy.layers)
        return RecipeError(
            f"the layers of '{self.backbone.name}' below {self.count} (of {layers}) cannot be frozen: {why}",
            key=KEY,
            valid="null with this model",
            hint=f"{KEY}=null",
        )


def hold_in_eval(module: nn.Module) -> None:
    """Put a module and its children into evaluation mode, and let nobody put them back."""
    module.eval()
    module.train = lambda mode=True: module  # type: ignore[method-assign]


@torch.no_grad()
def modules_below(backbone: Backbone, count: int) -> list[nn.Module]:
    """Every module that the model has computed with before it comes to layer ``count``, and not after that.

    Raises RecipeError (key ``training.freeze_below``) where there is no such layer.
    """
    model, layers = backbone.model, backbone.anatomy.layers
    if not 0 < count < len(layers):
        raise RecipeError(
            f"'{backbone.name}' has {len(layers)} layers, and {count} of them cannot be frozen below the rest",
            key=KEY,
            valid=f"1 to {len(layers) - 1}, auto or null" if len(layers) > 1 else "null",
        )
    called: list[nn.Module] = []
    watched = [module.register_forward_pre_hook(lambda module, _: called.append(module)) for module in model.modules()]
    training = model.training
    ids = torch.ones(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    try:
        model.eval()
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        model.train(training)
        for handle in watched:
            handle.remove()
    first = layers[count][1]
    if first not in called:
        raise RecipeError(f"'{backbone.name}' does not compute its layers one after the other", key=KEY, valid="null")
    place = called.index(first)
    after = set(called[place:])
    return [
        module
        for module in dict.fromkeys(called[:place])
        if module not in after and not any(inner is first for inner in module.modules())
    ]
