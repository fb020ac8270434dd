"""Virtual tokens in front of the text.

They stand before the first token, and leave the stack's output before any head or pooler reads it: an encoder's head sees [CLS] where
it always was, a decoder's the last token that is no padding. The mask and the segments grow with them.

Positions. With a table of positions the text keeps its own, and every virtual token stands where the text begins: what a position
adds to it, its embedding can take back. So a text of full length still fits, and where the virtual tokens stand among the others
makes no difference to an encoder. With rotary positions they stand at 0 ... n-1 and the text follows; only distances count there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.block import Block, Wiring, blocks, free_name
from lorakit.adapters.deltas.prompt import PROMPT, VirtualTokens
from lorakit.adapters.switching import DROPPED
from lorakit.backbone.head import embedding_weight
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError

Tensor = torch.Tensor
Positions = Callable[[Any, Tensor, Tensor | None], Tensor | None]


class Prompts:
    """Puts the virtual tokens that are in the function before the base model's input, and takes them off its output."""

    def __init__(self, model: Any, positions: Positions, adapters: Sequence[Adapter]):
        self.base: nn.Module = model.base_model
        self.positions = positions
        self.adapters = list(adapters)
        self.handles: list[RemovableHandle] = []
        table = embedding_weight(model)
        assert table is not None
        for adapter in adapters:
            self.base.add_module(free_name(self.base, "adapter"), adapter)
            tokens_of(adapter).start_from(table)

    def wire(self) -> None:
        """Hook exactly those that are in the function."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        pooler = getattr(self.base, "pooler", None)
        for adapter in self.adapters:
            if adapter.state == DROPPED:
                continue
            begin = partial(put_before, adapter, self.positions)
            self.handles.append(self.base.register_forward_pre_hook(begin, with_kwargs=True))
            self.handles.append(self.base.register_forward_hook(partial(take_off_output, adapter.rank)))
            if pooler is not None:
                self.handles.append(pooler.register_forward_pre_hook(partial(take_off, adapter.rank)))


def tokens_of(adapter: Adapter) -> VirtualTokens:
    """Its virtual tokens."""
    assert isinstance(adapter.delta, VirtualTokens)
    return adapter.delta


# Bound to their arguments with ``partial``, so that a deep copy of the model has its own.


def put_before(
    adapter: Adapter, positions: Positions, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A pre-hook (with kwargs): the base model's input with the virtual tokens in front."""
    given = {**inspect.signature(base.forward).bind_partial(*args).arguments, **kwargs}
    ids, text, mask = given.pop("input_ids", None), given.get("inputs_embeds"), given.get("attention_mask")
    if text is None:
        text = base.get_input_embeddings()(ids)  # type: ignore[operator]
    own = given.get("position_ids")
    if own is None and ids is not None:
        own = positions(base, ids, mask)
    tokens = tokens_of(adapter).tokens().to(text.dtype)
    given["inputs_embeds"] = torch.cat([tokens.expand(len(text), -1, -1), text], dim=1)
    if mask is not None:
        given["attention_mask"] = with_columns_in_front(mask, adapter.rank, 1)
    if given.get("token_type_ids") is not None:
        given["token_type_ids"] = with_columns_in_front(given["token_type_ids"], adapter.rank, 0)
    if own is not None:
        given["position_ids"] = torch.cat([own[:, :1].expand(-1, adapter.rank), own], dim=1)
    return (), given


def with_columns_in_front(rows: Tensor, count: int, value: int) -> Tensor:
    """``rows`` (batch x length) with ``count`` columns of ``value`` in front."""
    return torch.cat([rows.new_full((len(rows), count), value), rows], dim=1)


def take_off(count: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A pre-hook: a pooler's input without the virtual tokens."""
    return (args[0][:, count:], *args[1:])


def take_off_output(count: int, base: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """A hook: the last hidden states without the virtual tokens."""
    if isinstance(output, tuple):
        return (output[0][:, count:], *output[1:])
    output.last_hidden_state = output.last_hidden_state[:, count:]
    return output


# Which positions a model gives its tokens when it is not told.


def counted(base: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    """0, 1, 2, ..."""
    return torch.arange(ids.shape[1], device=ids.device)[None]


def counted_past_padding(base: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    """RoBERTa: real tokens count up from the padding's id, padding stays at it."""
    padding: int = base.embeddings.padding_idx
    real = ids.ne(padding).long()
    return real.cumsum(dim=1) * real + padding


def counted_by_mask(base: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    """OPT: real tokens count up from 0, padding stands at -1."""
    real = torch.ones_like(ids) if mask is None else mask.long()
    return real.cumsum(dim=1) * real - 1


def rotary(base: Any, ids: Tensor, mask: Tensor | None) -> None:
    """The model counts by itself: all that matters is how far tokens are apart."""


POSITIONS: Mapping[str, Positions] = {
    **dict.fromkeys(("bert", "electra", "distilbert", "deberta", "deberta_v2", "gpt2"), counted),
    "roberta": counted_past_padding,
    "opt": counted_by_mask,
    **dict.fromkeys(("llama", "gemma", "gpt_neox"), rotary),
}
"""Family -> its positions."""


class Input(Block):
    """The sequence of token embeddings."""

    name: ClassVar = PROMPT
    summary: ClassVar = "in front of the text's embeddings"

    def sites(self, backbone: Backbone) -> list[Site]:
        """One; its features are the width of the token embeddings."""
        family, table = backbone.anatomy.family, embedding_weight(backbone.model)
        if family not in POSITIONS or table is None:
            raise RecipeError(
                f"virtual tokens cannot be put before the text of a {family} model: how it counts positions is not known",
                key="adapter.method",
                valid=f"models of {', '.join(POSITIONS)}",
                hint="lora on the projections",
            )
        name = ".".join(filter(None, (backbone.model.base_model_prefix, PROMPT)))
        return [Site(name, -1, PROMPT, table.shape[1], table.shape[1], "input")]

    def wiring(self, backbone: Backbone, adapters: Sequence[Adapter]) -> Wiring:
        """Around the base model."""
        return Prompts(backbone.model, POSITIONS[backbone.anatomy.family], adapters)


blocks.register(Input())
