"""Ids of many texts at once are what transformers' own call gives, one text after the other."""

import os
import subprocess
from typing import ClassVar

import pytest
from support.sentences import WORDS, trained_tokenizer, word_tokenizer
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from lorakit.tasks import token_ids as module
from lorakit.tasks.long_texts import Cut
from lorakit.tasks.token_ids import limit_threads, token_ids
from lorakit.tasks.tokens import tokens_of

TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "", "w8", "a film it is <URL>", "é < / s > [SEP] 漢字 unknown", "w9 " * 40] * 5
SECOND = [" ".join(WORDS[place : place + place % 9]) for place in range(len(TEXTS))]


class Slow(PreTrainedTokenizer):
    """A tokenizer in Python, a token a word."""

    vocab_files_names: ClassVar = {}
    model_input_names: ClassVar = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(self, **options):
        self.words = ["[UNK]", "[PAD]", *WORDS]
        super().__init__(unk_token="[UNK]", pad_token="[PAD]", **options)

    @property
    def vocab_size(self):
        return len(self.words)

    def get_vocab(self):
        return {word: number for number, word in enumerate(self.words)}

    def _tokenize(self, text, **options):
        return text.split()

    def _convert_token_to_id(self, token):
        return self.words.index(token) if token in self.words else 0

    def _convert_id_to_token(self, index):
        return self.words[index]


class Doubling(PreTrainedTokenizerFast):
    """A fast tokenizer that does more than its backend."""

    def _encode_plus(self, *args, **options):
        made = super()._encode_plus(*args, **options)
        made["input_ids"] = [[2 * token for token in row] for row in made["input_ids"]]
        return made


FAST = ("unigram", "bpe", "words", "pairs")


def made(kind):
    """A tokenizer of that kind."""
    if kind == "slow":
        return Slow()
    if kind == "doubling":
        return Doubling(tokenizer_object=word_tokenizer("right").backend_tokenizer, pad_token="[PAD]")
    return word_tokenizer("left") if kind == "pairs" else trained_tokenizer(kind)


@pytest.mark.parametrize("kind", [*FAST, "slow", "doubling"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("columns", [[TEXTS], [TEXTS, SECOND]], ids=["texts", "pairs"])
@pytest.mark.parametrize("length", [6, None])
def test_ids_are_those_of_a_call_for_each_text(kind, columns, length, side):
    tokenizer = made(kind)
    tokenizer.truncation_side = side
    ids, lost = token_ids(tokenizer, columns, length)
    options = {"truncation": length is not None, "max_length": length}
    rows = [
        [[text] for text in texts] for texts in zip(*columns, strict=True)
    ]  # a text alone would lose a second one without words
    each = [tokenizer(*texts, **options) for texts in rows]
    whole = [tokenizer(*texts) for texts in rows]
    assert ids == {name: [made[name][0] for made in each] for name in each[0] if name != "attention_mask"}
    assert lost == sum(
        len(row["input_ids"][0]) < len(full["input_ids"][0]) for row, full in zip(each, whole, strict=True)
    )
    assert lost > 0 or length is None


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("long", ["truncate", "head_tail", "windows"])
def test_one_core_makes_the_same_bytes(kind, long, monkeypatch):
    tokenizer, texts, found = made(kind), [text or "w1" for text in TEXTS] * 40, []
    for parallel in ("true", "false"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        found.append(tokens_of([texts], tokenizer, Cut(8, long)))
    assert found[0].tokens.tobytes() == found[1].tokens.tobytes()
    assert found[0].lengths.tobytes() == found[1].lengths.tobytes()
    assert found[0].truncated == found[1].truncated


def test_a_tokenizer_goes_on_as_it_was_left():
    """What one call cuts the next does not."""
    tokenizer = word_tokenizer("right")
    token_ids(tokenizer, [TEXTS], 4)
    assert [len(row) for row in token_ids(tokenizer, [TEXTS])[0]["input_ids"][:3]] == [9, 2, 3]
    assert tokenizer(TEXTS[:3], padding=True)["attention_mask"][1] == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert [len(row) for row in token_ids(tokenizer, [TEXTS])[0]["input_ids"][:3]] == [9, 2, 3]


def test_a_process_that_is_started_afterwards_is_not_warned_of(capfd):
    token_ids(word_tokenizer("right"), [TEXTS])
    subprocess.run(["true"], check=True)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "4,2"}, "4"),  # nested levels: the first counts
        ({"OMP_NUM_THREADS": "3", "RAYON_NUM_THREADS": "5"}, "5"),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, None),  # torchrun's, and nobody's wish
        ({"OMP_NUM_THREADS": "all"}, None),
    ],
)
def test_threads_are_as_few_as_the_environment_says(monkeypatch, given, threads):
    monkeypatch.setattr(os, "environ", dict(given))
    limit_threads()
    assert os.environ.get(module.OWN_THREADS) == threads
