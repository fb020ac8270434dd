"""Tokens with a role, written in texts, and what tokenizers of each kind make of them then."""

import pytest
from datasets import Dataset
from support.sentences import trained_tokenizer

from lorakit.tasks.batching import encode
from lorakit.tasks.plain_text import as_plain_text, role_tokens


@pytest.mark.parametrize("kind", ["unigram", "bpe", "words"])
def test_a_role_is_not_taken_by_what_is_written(kind):
    tokenizer = trained_tokenizer(kind)
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
    tokenizer = trained_tokenizer("words")
    tokenizer.pad_token = "!"
    assert role_tokens(tokenizer) == ("<s>", "</s>", "<mask>")
