from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from support.sentences import word_tokenizer

from lorakit.errors import DataError
from lorakit.tasks import tokens as reading
from lorakit.tasks.batching import WINDOW_OF, encode
from lorakit.tasks.long_texts import Cut, Frame, places
from lorakit.tasks.tokens import tokens_of

TEXTS = [
    "the film was a very long and a very slow one",
    "bad",
    "a good film",
    "good good good good good good good good",
]


def split(*texts):
    return Dataset.from_dict({"text": list(texts), "label": [0] * len(texts), "idx": list(range(len(texts)))})


def kept(number, cut, frame):
    return [[place for part in piece for place in part] for piece in places(number, cut, frame)]


@pytest.mark.parametrize(
    ("number", "cut", "frame", "expected"),
    [
        (5, Cut(6, "head_tail"), Frame(1, 1), [[0, 1, 2, 3, 4]]),
        # 18 words between two tokens, of which 8 may stay: two of the beginning, six of the end
        (20, Cut(10, "head_tail"), Frame(1, 1), [[0, 1, 2, 13, 14, 15, 16, 17, 18, 19]]),
        (20, Cut(8, "head_tail"), Frame(0, 0), [[0, 1, 14, 15, 16, 17, 18, 19]]),
        (10, Cut(6, "windows"), Frame(1, 1), [[0, 1, 2, 3, 4, 9], [0, 4, 5, 6, 7, 9], [0, 5, 6, 7, 8, 9]]),
        (9, Cut(4, "windows"), Frame(0, 1), [[0, 1, 2, 8], [3, 4, 5, 8], [5, 6, 7, 8]]),
    ],
)
def test_pieces_of_long_texts(number, cut, frame, expected):
    assert kept(number, cut, frame) == expected


@pytest.mark.parametrize("number", range(1, 60))
def test_windows_are_full_overlap_and_leave_nothing_out(number):
    frame, cut = Frame(1, 2), Cut(11, "windows")
    found = kept(number, cut, frame)
    assert {place for piece in found for place in piece} == set(range(number))
    if number > 11:
        assert all(len(piece) == 11 and piece[0] == 0 and piece[-2:] == [number - 2, number - 1] for piece in found)
        assert all(set(first[1:-2]) & set(second[1:-2]) for first, second in pairwise(found))


def test_endless_texts_are_read_up_to_a_number_of_windows():
    assert len(kept(10_000, Cut(12, "windows"), Frame(1, 1))) == 32


@pytest.mark.parametrize("long", ["head_tail", "windows"])
def test_pieces_stand_between_the_tokens_that_stand_around_every_text(long):
    tokenizer = word_tokenizer("right")
    cls, sep = tokenizer("bad").input_ids[0], tokenizer("bad").input_ids[-1]
    made = tokens_of([TEXTS], tokenizer, Cut(6, long))
    ends = np.cumsum(made.lengths)
    pieces = [made.tokens[end - length : end] for end, length in zip(ends, made.lengths, strict=True)]
    assert all(len(piece) <= 6 and piece[0] == cls and piece[-1] == sep for piece in pieces)
    short = tokenizer([TEXTS[1], TEXTS[2]]).input_ids
    if long == "head_tail":
        whole = tokenizer(TEXTS[0]).input_ids
        assert pieces[0].tolist() == [cls, whole[1], *whole[-4:]]
        assert [piece.tolist() for piece in pieces[1:3]] == short
        assert (made.counts, made.truncated) == (None, 2)
    else:
        assert made.counts.tolist() == [4, 1, 1, 3]  # 11, 1, 3 and 8 words; windows of 4 start 3 apart
        assert made.truncated == 0


def test_a_batch_of_windows_says_which_row_each_is_of():
    encoded = encode(split(*TEXTS), word_tokenizer("right"), Cut(6, "windows"))
    batch = encoded.collate([2, 0])
    assert batch[WINDOW_OF].tolist() == [0, 1, 1, 1, 1]
    assert batch["input_ids"].shape == (5, 6)
    assert batch["labels"].shape == (2,)
    alone = encoded.collate([2])
    assert torch.equal(batch["input_ids"][0, :5], alone["input_ids"][0])
    assert encoded.lengths.tolist() == [24, 3, 5, 18]


def test_short_texts_are_the_same_whatever_is_done_with_long_ones():
    plain, *others = [
        encode(split("bad", "a good film"), word_tokenizer("right"), Cut(9, long))
        for long in ("truncate", "head_tail", "windows")
    ]
    for other in others:
        assert np.array_equal(other.tokens, plain.tokens)
        assert np.array_equal(other.lengths, plain.lengths)


def test_windows_come_from_the_cache_as_they_went_there(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    rows = split(*TEXTS)
    fresh = reading.tokenise(rows, word_tokenizer("right"), Cut(6, "windows"))
    monkeypatch.setattr(reading, "LARGE", 0)
    for _ in range(2):
        stored = reading.tokenise(rows, word_tokenizer("right"), Cut(6, "windows"))
        assert np.array_equal(stored.counts, fresh.counts)
        assert np.array_equal(stored.tokens, fresh.tokens)


def test_pairs_are_cut_at_their_end_alone():
    with pytest.raises(DataError, match="for single texts"):
        tokens_of([["a"], ["b"]], word_tokenizer("right"), Cut(6, "windows"))
