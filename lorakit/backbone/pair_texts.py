"""The two texts of a pair, each encoded by itself: rows of joined texts taken apart into rows of one text.

    <s> a </s> b </s>  or  <s> a </s></s> b </s>   =>   <s> a </s>  and  <s> b </s>

So neither text sees the other (Reimers and Gurevych 2019, Sentence-BERT, section 3), and the tokens are those of each text alone, but
where the pair was too long and was cut. Texts hold no ``</s>`` of their own (``tasks.plain_text``), so the first one ends the first text.
A row without any is a first text whose second is empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from lorakit.tasks.plain_text import role_tokens

Tensor = torch.Tensor
MARK = "texts_apart"


@dataclass(frozen=True)
class PairFrame:
    """begin, end: the tokens around every text; between: how many tokens stand between two texts, the first of which is ``end``."""

    begin: int
    end: int
    between: int

    @classmethod
    def of(cls, tokenizer: Any) -> PairFrame | None:
        """That of a tokenizer; None where the texts of a pair cannot be told apart, or would be others alone.

        Example:
            >>> PairFrame.of(AutoTokenizer.from_pretrained("roberta-base"))            # doctest: +SKIP
            PairFrame(begin=0, end=2, between=2)
        """
        alone = tokenizer("a")["input_ids"]
        try:
            joined = tokenizer("a", "a")["input_ids"]
        except Exception:  # whatever a tokenizer says that takes no second text
            return None
        between = len(joined) - 2 * len(alone) + 2
        if len(alone) < 3 or between < 1:
            return None
        begin, *_, end = alone
        second = [begin, *joined[len(alone) + between - 1 :]]
        kept_out_of_texts = tokenizer.convert_ids_to_tokens(end) in role_tokens(tokenizer)
        if joined[: len(alone)] != alone or second != alone or not kept_out_of_texts:
            return None
        return cls(begin, end, between)

    def apart(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask of joined rows (rows, tokens) -> those of single texts (2 rows, longest): all first ones, then all second ones.

        Padding, which no model may look at, stands on the right of both; there it has the id ``end``, which every model can embed.
        """
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        length = attention_mask.sum(1, keepdim=True)
        ends = (input_ids == self.end) & attention_mask.bool() & (places > 0)
        first = torch.where(ends.any(1, keepdim=True), ends.int().argmax(1, keepdim=True) + 1, length)
        start = first + self.between - 1
        second = (1 + length - start).clamp_min(2)
        from_joined = (start - 1 + places).clamp(0, input_ids.shape[1] - 1)
        theirs = input_ids.gather(1, from_joined).masked_fill(places >= 1 + length - start, self.end)
        theirs[:, 0] = self.begin
        ids = torch.cat([input_ids.masked_fill(places >= first, self.end), theirs])
        lengths = torch.cat([first, second])
        longest = int(lengths.max())
        return ids[:, :longest], (places[:longest] < lengths).to(attention_mask.dtype)

    def halves(self, rows: int, tokens: int, device: torch.device) -> Tensor:
        """Some ids (rows, tokens) of pairs whose texts have about half of the tokens each, to measure with."""
        ids = torch.ones(rows, tokens, dtype=torch.long, device=device)
        ids[:, tokens // 2 - 1] = self.end
        return ids


def encoded_apart(model: nn.Module) -> PairFrame | None:
    """How a classifier takes the texts of its rows apart; None of one that does not."""
    frame: PairFrame | None = getattr(model, MARK, None)
    return frame


def rows_of_nothing(model: nn.Module, rows: int, tokens: int, device: torch.device) -> Tensor:
    """Ids (rows, tokens) that a classifier can read, to measure with."""
    if frame := encoded_apart(model):
        return frame.halves(rows, tokens, device)
    ids, config = torch.ones(rows, tokens, dtype=torch.long, device=device), cast(Any, model.config)
    if config.is_encoder_decoder:  # its head looks for the end
        ids[:, -1] = config.eos_token_id
    return ids


def takes_mask(model: nn.Module) -> nn.Module:
    """The module whose ``attention_mask`` says which tokens are padding, of those that layers see: mostly the model's own."""
    base: nn.Module = model.base_model if encoded_apart(model) else model  # type: ignore[assignment]
    return base
