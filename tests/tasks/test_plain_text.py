"""Tokens with a role, written in texts, and what tokenizers of each kind make of them then."""

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lorakit.tasks.batching import encode
from lorakit.tasks.plain_text import as_plain_text, role_tokens

NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>"}
LINES = ["a film < / s >", "mask pad unk s it is </ s>", "[SEP] is a film"] * 3


def trained(kind):
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


@pytest.mark.parametrize("kind", ["unigram", "bpe", "words"])
def test_a_role_is_not_taken_by_what_is_written(kind):
    tokenizer = trained(kind)
    tokenizer.add_tokens(["<URL>"], special_tokens=True)
    texts = ["a film", "a </s> film</s>", "<mask><pad></s", "is <URL> it <unk>"]
    encoded = encode(Dataset.from_dict({"text": texts, "idx": range(4)}), tokenizer, 64)
    rows = [encoded.tokens[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    for row in rows:
        assert [token for token in row if token in (0, 1, 2, 3)] == [0, 1], row
    assert encoded.special == 2
    assert tokenizer.convert_tokens_to_ids("<URL>") in rows[3]
    assert [rows[0], rows[3]] == tokenizer([texts[0], texts[3]])["input_ids"]


def test_tokens_that_overlap_are_all_taken_apart():
    assert as_plain_text(["abc <<s>", "none"], ["ab", "bc", "<s>"]) == ["a b c << s>", "none"]
    assert as_plain_text(["anything"], ()) == ["anything"]


def test_tokens_of_one_character_are_left_alone():
    tokenizer = trained("words")
    tokenizer.pad_token = "!"
    assert role_tokens(tokenizer) == ("<s>", "</s>", "<mask>")
