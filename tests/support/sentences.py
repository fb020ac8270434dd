"""Rows of made-up words, and a tokenizer of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(50)]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>"}
LINES = ["a film < / s >", "mask pad unk s it is </ s>", "[SEP] is a film"] * 3


def word_tokenizer(padding_side: str) -> PreTrainedTokenizerFast:
    """``[CLS] ... [SEP]`` and ``[CLS] ... [SEP] ... [SEP]``, a token a word, padded on the left or the right."""
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "[PAD]", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        padding_side=padding_side,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def trained_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of that kind: its vocabulary holds the special tokens, as that of every real one does."""
    special = list(NAMES.values())
    if kind == "unigram":  # the scores of its special tokens are the best there are
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    elif kind == "bpe":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    else:
        core = Tokenizer(models.WordLevel(unk_token="<unk>"))
        core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    core.train_from_iterator(LINES, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, **NAMES)


def sentences(count: int, pair: bool = False, label: Callable[[int], Any] | None = None) -> Dataset:
    """Texts of one to eleven words, labelled by their number."""
    rng = np.random.default_rng(count)

    def text() -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(1, 12)))

    columns: dict[str, list[Any]] = {"text": [text() for _ in range(count)], "idx": list(range(100, 100 + count))}
    if pair:
        columns["text_pair"] = [text() for _ in range(count)]
    if label:
        columns["label"] = [label(i) for i in range(count)]
    return Dataset.from_dict(columns)
