"""``model.readout``: what of a text's states the head reads, where that is not what the family's own classifier does.

    own      the family's own classifier, whatever it has before its output layer
    cls      logits = W h_0 + b                      h (tokens, width): the last hidden states; W (labels, width)
    mean     logits = W mean_t(h_t) + b              over the tokens that are no padding
    layers   logits = W [m_1 ... m_4] + b            m_l: that mean of each of the last four layers, whose states are brought to
                                                     mean 0 and deviation 1 first, as layers differ in scale; W (labels, 4 width)
    pair     logits = W [u v |u - v| u v] + b        of pairs, whose texts are encoded each by itself: u and v are the means of the first
                                                     one's and the second one's last states, brought to scale so; W (labels, 4 width)

Encoders of sentences were trained so that the mean tells what a sentence says (Reimers and Gurevych 2019, Sentence-BERT, section 3);
their first token, which BERT's own head reads behind a pooler, was not. Four layers side by side were the best of what Devlin et al.
2019 (BERT, section 5.3, table 7) read of a frozen model. What tells two sentences apart is read off their means by their difference
(Sentence-BERT, section 3) and their product (Conneau et al. 2017, InferSent, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import layer_norm
from transformers.modeling_outputs import SequenceClassifierOutput

from lorakit.backbone.padding import padding_of
from lorakit.backbone.pair_texts import MARK, PairFrame
from lorakit.errors import RecipeError

READOUT_KEY = "model.readout"
OWN, CLS, MEAN, LAYERS, PAIR = "own", "cls", "mean", "layers", "pair"
DEPTH = 4  # layers that are read together, of a model that has as many
COMPARED = 4  # vectors of a pair: u, v, |u - v| and u v

Tensor = torch.Tensor


@dataclass(frozen=True)
class Readout:
    """read: states (rows, tokens, width) of the last ``depth`` layers, and the mask (rows, tokens), to features (rows, depth width);
    told: what is read, in words; apart: whether these are rows of one text each, all first ones of pairs and then all second ones.
    """

    name: str
    told: str
    read: Callable[[Sequence[Tensor], Tensor], Tensor]
    depth: int = 1
    apart: bool = False

    @property
    def head(self) -> str:
        """What the output layer is called in a model."""
        return f"{self.name}_head"

    def features(
        self, base: nn.Module, attention_mask: Tensor, *, frame: PairFrame | None = None, **inputs: Tensor
    ) -> Tensor:
        """What goes into the output layer, (rows, width of what is read); frame: how pairs are taken ``apart``."""
        if frame is not None:  # token types are those of one text then, for which models need not be told them
            ids, attention_mask = frame.apart(inputs["input_ids"], attention_mask)
            inputs = {"input_ids": ids}
        deep = {"output_hidden_states": True} if self.depth > 1 else {}
        return self.of(base(attention_mask=attention_mask, **inputs, **deep), attention_mask)

    def of(self, output: Any, attention_mask: Tensor) -> Tensor:
        """The same from what the base model gave."""
        states = [output.last_hidden_state] if self.depth == 1 else output.hidden_states[1:][-self.depth :]
        return self.read(states, attention_mask)


def first(states: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """The first token's last state (rows, width)."""
    return states[-1][:, 0]


def means(states: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """The mean over the tokens of the last layer's states."""
    mask = attention_mask[..., None].to(states[-1].dtype)
    return (states[-1] * mask).sum(1) / mask.sum(1)


def layer_means(states: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """The mean over the tokens of each layer's states, all of one scale, side by side."""
    return torch.cat([means([layer_norm(each, each.shape[-1:])], attention_mask) for each in states], dim=1)


def comparison(states: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """u, v, |u - v| and u v of the two texts of each row, side by side (rows, 4 width)."""
    u, v = layer_means(states[-1:], attention_mask).chunk(2)
    return torch.cat([u, v, (u - v).abs(), u * v], dim=1)


READOUTS = {
    each.name: each
    for each in (
        Readout(CLS, "the first token", first),
        Readout(MEAN, "the mean of all tokens", means),
        Readout(LAYERS, f"the mean of all tokens in the last {DEPTH} layers", layer_means, DEPTH),
        Readout(PAIR, "the means of both texts of a pair, each encoded by itself", comparison, apart=True),
    )
}
HEADS = {each.head: each for each in READOUTS.values()}


def reads_first_token_alone(readout: str) -> bool:
    """Whether no other token reaches the head; of ``own`` the family knows (``first_token``)."""
    return readout in (OWN, CLS)


def read_out(model: Any, readout: Readout, tokenizer: Any, name: str) -> list[str]:
    """Give a classifier of transformers a new head on what is read, drop its own, and name what was dropped.

    Raises RecipeError (key ``model.readout``) for models that have nothing of the kind to read.
    """
    width = width_of(model, readout, tokenizer, name)
    base = model.base_model
    dropped = [
        f"{part}.{key}"
        for part, child in model.named_children()
        if child is not base
        for key, _ in child.named_parameters()
    ]
    for part in [part for part, child in model.named_children() if child is not base]:
        del model._modules[part]
    if isinstance(getattr(base, "pooler", None), nn.Module):
        prefix = model.base_model_prefix
        dropped += [f"{prefix}.pooler.{key}" for key, _ in base.pooler.named_parameters()]
        base.pooler = nn.Identity()  # LayoutLM's base model calls it, whatever it is
    frame = PairFrame.of(tokenizer) if readout.apart else None
    if frame is not None:
        setattr(model, MARK, frame)
    head = nn.Linear(width, model.config.num_labels)
    head.to(next(base.parameters()).dtype)
    setattr(model, readout.head, head)
    model._init_weights(head)

    def forward(model: Any, attention_mask: Tensor, **inputs: Tensor) -> SequenceClassifierOutput:
        """The logits (rows, labels) of a batch."""
        features = readout.features(model.base_model, attention_mask, frame=frame, **inputs)
        return SequenceClassifierOutput(logits=getattr(model, readout.head)(features))

    model.forward = MethodType(forward, model)
    return dropped


@torch.no_grad()
def width_of(model: Any, readout: Readout, tokenizer: Any, name: str) -> int:
    """How wide what is read is. Raises RecipeError where the model does not give it, or it says nothing of the whole text."""
    base, padding = model.base_model, padding_of(model.config)
    size = int(getattr(model.config.get_text_config(), "hidden_size", 0))
    if base is model or model.config.is_encoder_decoder:
        raise unfit(readout, name, "this architecture has no states of the text's tokens alone")
    if padding.multiple > 1:
        raise unfit(readout, name, "it reads several tokens together, the last with padding")
    if readout.name == CLS and (padding.left or not starts_with_special(tokenizer)):
        raise unfit(readout, name, "its texts begin with no token that stands for the whole")
    if readout.apart and (padding.left or padding.equal):
        raise unfit(
            readout, name, "what it makes of a text depends on the padding, and those of a pair have two lengths"
        )
    if readout.apart and PairFrame.of(tokenizer) is None:
        raise unfit(
            readout, name, "its tokenizer puts no token before every text and another one behind it, alone and in pairs"
        )
    tokens = torch.tensor([[1, 1, 1], [1, 1, 2]], device=next(base.parameters()).device)
    deep = {"output_hidden_states": True} if readout.depth > 1 else {}
    try:
        output = base(input_ids=tokens, attention_mask=torch.ones_like(tokens), **deep)
        states = [output.last_hidden_state] if readout.depth == 1 else list(output.hidden_states[1:][-readout.depth :])
    except Exception as error:  # whatever a family's code says of a call that it does not know
        raise unfit(readout, name, f"it cannot be asked for its states: {type(error).__name__}") from error
    if not states or any(each.shape != (2, 3, size) for each in states):
        raise unfit(readout, name, "it does not give a state for each token")
    if readout.name in (CLS, PAIR) and torch.equal(states[-1][0, 0], states[-1][1, 0]):
        raise unfit(readout, name, "its first token sees none of those that follow")
    return len(states) * size * (COMPARED if readout.apart else 1)


def starts_with_special(tokenizer: Any) -> bool:
    """Whether a text's first token is none of its own."""
    first, *_ = tokenizer("a")["input_ids"] or [None]
    return first in tokenizer.all_special_ids


def unfit(readout: Readout, name: str, why: str) -> RecipeError:
    """A RecipeError about a model that has not what a read-out reads."""
    return RecipeError(
        f"'{name}' cannot be read out by {readout.told}: {why}",
        key=READOUT_KEY,
        valid=OWN,
        hint=f"{READOUT_KEY}={OWN}",
    )
