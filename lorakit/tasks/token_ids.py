"""Token ids of many texts at once, on all cores where the tokenizer can.

A fast tokenizer encodes a batch on all the cores that RAYON_NUM_THREADS leaves it, and hands out an object a text; transformers then
copies ids, types and masks of each on one core, which takes a third of all work. Here the tokenizer's backend is asked itself, without
the places of tokens in their texts, which nobody reads, and gives up no more than the ids and types.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODING = ("__call__", "_encode_plus", "_convert_encoding")
"""The methods between a call of a fast tokenizer and its backend; a class with its own ones does more than its backend."""

OWN_THREADS, THREADS = "RAYON_NUM_THREADS", "OMP_NUM_THREADS"
"""What limits the threads of tokenizers, and those of everything else."""
SEVERAL = "LOCAL_WORLD_SIZE"
"""What tells that a launcher has started processes; it gives each a THREADS that nobody chose."""

Ids = dict[str, list[list[int]]]
"""input_ids and maybe token_type_ids of each text."""


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], length: int | None = None
) -> tuple[Ids, int]:
    """The ids of one column of texts, or of two that make pairs, and how many lost tokens: each is cut to ``length``, None for not."""
    options: dict[str, Any] = {
        "truncation": length is not None,
        "max_length": length,
        "padding": False,
        "verbose": False,
    }
    if is_its_backend(tokenizer):
        tokenizer(*([text] for text, *_ in texts), **options)  # leaves the backend as it is for a call like this
        found = tokenizer.backend_tokenizer.encode_batch_fast(
            list(zip(*texts, strict=True)) if texts[1:] else list(texts[0])
        )
        ids = {"input_ids": [each.ids for each in found]}
        if "token_type_ids" in tokenizer.model_input_names:
            ids["token_type_ids"] = [each.type_ids for each in found]
        return ids, sum(1 for each in found if each.overflowing)
    made = tokenizer(*map(list, texts), return_attention_mask=False, **options)
    lost = 0 if length is None else count_cut(made, tokenizer, texts)
    return {name: made[name] for name in ("input_ids", "token_type_ids") if name in made}, lost


def limit_threads() -> None:
    """Let tokenizers have no more threads than OMP_NUM_THREADS, where only that is given; later than their first call that does nothing.

    Without either they have the cores that this process may use.
    """
    number = os.environ.get(THREADS, "").split(",")[0]
    if number.isdecimal() and SEVERAL not in os.environ:
        os.environ.setdefault(OWN_THREADS, number)


def is_its_backend(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a call of the tokenizer gives what its backend in Rust gives, and nothing else is done on the way."""
    from transformers import PreTrainedTokenizerFast

    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name) for name in ENCODING
    )


def count_cut(made: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]]) -> int:
    """How many rows of ``made`` lost tokens."""
    if made.encodings is not None:
        return sum(1 for encoding in made.encodings if encoding.overflowing)
    whole = tokenizer(*map(list, texts), padding=False, truncation=False, verbose=False)["input_ids"]
    return sum(len(row) < len(full) for row, full in zip(made["input_ids"], whole, strict=True))
