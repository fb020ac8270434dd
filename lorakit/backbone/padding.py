"""The pad token, and where padding stands. Classification heads of decoders read the last token that is not padding, found by its id.

So padding stands on the right, behind what is read, with causal attention; encoders mask it out. Some architectures of transformers
are otherwise, and a text's label would depend on the texts that share its batch:

    reads the last position     the head takes what is there, padding or not                        padded on the left
    reads one further           the head reads the position behind the last token, which a batch's
                                longest row does not have: it would be read one earlier             one more pad token for all
    reads several at once       letters are taken together, those of a rest at the end are not          to a multiple of so many
    takes padding for text      convolutions or Fourier transforms without a mask, segments of the
                                padded length, hashes                                               rows of one length in a batch
                                                                                                    where they are predicted
"""

from __future__ import annotations

from typing import Any

from lorakit.errors import RecipeError
from lorakit.tasks.batching import Padding

READS_THE_LAST_POSITION = ("xlnet",)
READS_ONE_FURTHER = ("t5gemma", "t5gemma2")
READS_SEVERAL_AT_ONCE = ("canine",)
TAKES_PADDING_FOR_TEXT = ("convbert", "fnet", "mobilebert", "nystromformer", "yoso")


def padding_of(config: Any) -> Padding:
    """How the rows of a batch are padded for models of this configuration."""
    kind = config.model_type
    return Padding(
        left=kind in READS_THE_LAST_POSITION,
        spare=int(kind in READS_ONE_FURTHER),
        multiple=int(config.downsampling_rate) if kind in READS_SEVERAL_AT_ONCE else 1,
        equal=kind in TAKES_PADDING_FOR_TEXT,
    )


def padding_note(config: Any) -> str:
    """What a person should know of it who uses the model without lorakit; mostly nothing."""
    padding = padding_of(config)
    told = [
        "read the last position: texts are padded on the left" * padding.left,
        "read the position behind the last token: every text is padded by one token more" * padding.spare,
        f"read {padding.multiple} tokens at once: texts are padded to a multiple of that" * (padding.multiple > 1),
        "take padding for text: in predicting, only texts of one length share a batch" * padding.equal,
    ]
    return "".join(f"{config.model_type} models {text}" for text in told if text)


def prepare_padding(tokenizer: Any, config: Any, rows: int) -> Padding:
    """Give the tokenizer a pad token that no text ends with, on the side the head needs, and tell the model's config.

    rows: how many embeddings the model has. The tokenizer's own pad token is kept, unless it has no embedding, or is what
    the tokenizer puts at the end of every text (pad == eos, eos appended), where the head would take real tokens for
    padding. Then the first that fits of: an added token whose name says pad or reserved, eos, bos, unk, any other special
    token. Returns how rows are padded. Raises RecipeError (key ``model.name``) when none fits.
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
    padding = padding_of(config)
    tokenizer.padding_side = "left" if padding.left else "right"
    config.get_text_config().pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    return padding


def appended_token(tokenizer: Any) -> int | None:
    """The id of the token that the tokenizer puts behind every text, None where it appends nothing.

    Raises RecipeError (key ``model.name``) for one that reads no plain text: some want each word's place on a page.
    """
    try:
        bare = tokenizer("a", add_special_tokens=False).input_ids
        whole = tokenizer("a").input_ids
    except Exception as error:
        raise RecipeError(f"its tokenizer reads no plain text: {error}", key="model.name") from error
    return whole[-1] if whole[len(whole) - len(bare) :] != bare else None
