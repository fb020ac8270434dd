"""The pad token. Classification heads of decoders read the last token that is not padding, and find it by its id."""

from __future__ import annotations

from typing import Any

from lorakit.errors import RecipeError


def prepare_padding(tokenizer: Any, config: Any, rows: int) -> None:
    """Give the tokenizer a pad token that no text ends with, on the right side, and tell the model's config.

    rows: how many embeddings the model has. The tokenizer's own pad token is kept, unless it has no embedding, or is what
    the tokenizer puts at the end of every text (pad == eos, eos appended), where the head would take real tokens for
    padding. Then the first that fits of: an added token whose name says pad or reserved, eos, bos, unk, any other special
    token. Raises RecipeError (key ``model.name``) when none fits.
    """
    appended = appended_token(tokenizer)
    added = tokenizer.get_added_vocab()
    spare = [token for word in ("pad", "reserved") for token in added if word in token.lower()]
    wanted = [tokenizer.pad_token, *spare, tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token]
    for token in [*wanted, *tokenizer.all_special_tokens]:
        number = None if token is None else tokenizer.convert_tokens_to_ids(token)
        if number is not None and number < rows and number != appended:
            break
    else:
        raise RecipeError("its tokenizer has no token that could serve as padding", key="model.name")
    if token != tokenizer.pad_token:
        tokenizer.pad_token = token
    tokenizer.padding_side = "right"
    config.get_text_config().pad_token_id = config.pad_token_id = tokenizer.pad_token_id


def appended_token(tokenizer: Any) -> int | None:
    """The id of the token that the tokenizer puts behind every text, None where it appends nothing."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    return whole[-1] if whole[len(whole) - len(bare) :] != bare else None
