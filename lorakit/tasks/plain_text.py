"""The tokens that a tokenizer puts around texts, where they are written inside of one: they are read as plain text.

A ``</s>`` in a review would otherwise become the token that ends every text: heads that look for it, or that take everything behind a
pad token for padding, would read another place, in this row and, for some families, refuse the whole batch. A space behind the
first character takes a token apart in every kind of tokenizer: ``< /s>``. Other added tokens (a ``<URL>`` that the model was trained
with) stay what they are, and a text without such tokens is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = (
    "bos_token",
    "eos_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)  # a written <unk> says what it is


def role_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The tokens with a role of this tokenizer, each once; one of a single character cannot be taken apart, and is no such."""
    named = (getattr(tokenizer, role, None) for role in ROLES)
    return tuple(dict.fromkeys(token for token in map(str, filter(None, named)) if len(token) > 1))


def as_plain_text(texts: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """The same texts, and a space within every one of ``tokens`` that is written in them.

    Example:
        >>> as_plain_text(["a </s> b", "a b"], ["</s>"])
        ['a < /s> b', 'a b']
    """
    if not tokens:
        return list(texts)
    written = "|".join(map(re.escape, tokens))
    there, start = re.compile(written).search, re.compile(f"(?=(?:{written}))(.)", re.DOTALL)
    return [start.sub(r"\1 ", text) if there(text) else text for text in texts]
