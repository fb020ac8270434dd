import numpy as np
import pyarrow as pa
import pytest
import torch
from support.sentences import sentences
from tokenizers import AddedToken

from lorakit.tasks import tokens
from lorakit.tasks.batching import encode
from lorakit.tasks.long_texts import Cut


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "LARGE", 1)
    return tmp_path / "cache"


def same(one, other):
    batches = [encoded.collate(range(len(encoded))) for encoded in (one, other)]
    assert one.truncated == other.truncated
    assert one.idx.tolist() == other.idx.tolist()
    assert batches[0].keys() == batches[1].keys()
    return all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


@pytest.mark.parametrize("pair", [False, True])
def test_tokens_from_the_cache_are_those_made_in_memory(folder, monkeypatch, tokenizer, pair):
    data = sentences(2500, pair, lambda i: i % 3).select(range(2499, 50, -3))
    first = encode(data, tokenizer, 8)
    seen = []
    again = encode(data, tokenizer, 8, progress=lambda *told: seen.append(told))
    assert not seen
    monkeypatch.setenv("LORAKIT_CACHE_DIR", "")
    bare = encode(data, tokenizer, 8, progress=lambda *told: seen.append(told))
    assert seen == [(817, 817)]
    monkeypatch.setattr(tokens, "LARGE", 2**60)
    memory = encode(data, tokenizer, 8)
    assert memory.truncated > 100
    assert all(same(memory, other) for other in (first, again, bare))
    assert len(list(folder.iterdir())) == 1


def test_progress_is_told_after_every_chunk(folder, tokenizer):
    seen = []
    encode(sentences(2500), tokenizer, 8, progress=lambda *told: seen.append(told))
    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_fewer_long_texts_are_tokenised_at_a_time(tokenizer, monkeypatch):
    data, seen = sentences(50), []
    whole = encode(data, tokenizer, 8)
    monkeypatch.setattr(tokens, "CHUNK_BYTES", 10)
    assert same(encode(data, tokenizer, 8, progress=lambda *told: seen.append(told)), whole)
    assert seen == [(done, 50) for done in range(1, 51)]


def test_what_decides_is_in_the_key(tokenizer):
    data = sentences(30, pair=True)
    keys = [
        tokens.tokens_key(data, tokenizer, Cut(8)),
        tokens.tokens_key(data, tokenizer, Cut(9)),
        tokens.tokens_key(data.remove_columns("text_pair"), tokenizer, Cut(8)),
        tokens.tokens_key(data.select([3, 1, 2]), tokenizer, Cut(8)),
        tokens.tokens_key(data.select([1, 2, 3]), tokenizer, Cut(8)),
        tokens.tokens_key(sentences(31, pair=True), tokenizer, Cut(8)),
    ]
    # Nor does a call, which leaves its truncation in the tokenizer, change it.
    tokenizer("w1", truncation=True, max_length=3, padding="max_length")
    assert tokens.tokens_key(data, tokenizer, Cut(8)) == keys[0]
    tokenizer.truncation_side = "left"
    keys.append(tokens.tokens_key(data, tokenizer, Cut(8)))
    tokenizer.add_tokens([AddedToken("w1 w2")])
    keys.append(tokens.tokens_key(data, tokenizer, Cut(8)))
    assert len(set(keys)) == len(keys)


def test_the_digest_is_of_the_texts_and_not_of_their_chunks():
    def digest(*chunks):
        return tokens.text_digest(pa.chunked_array(chunks, pa.string()))

    assert digest(["ab", "", "c"]) == digest(["ab"], [], ["", "c"])
    different = [["ab", "", "c"], ["ab", "c", ""], ["a", "b", "c"], ["ab", "c"], ["ab", "", "d"]]
    assert len({digest(texts) for texts in different}) == len(different)
    assert tokens.text_digest(pa.chunked_array([["x", "ab", "c", "y"]]).slice(1, 2)) == digest(["ab", "c"])


def test_a_tokenizer_without_a_known_content_is_not_cached(folder, tokenizer, monkeypatch):
    data = sentences(40)
    expected = encode(data, tokenizer, 8)
    monkeypatch.setattr(tokens, "tokens_key", lambda *args: "")
    assert same(encode(data, tokenizer, 8), expected)
    assert len(list(folder.iterdir())) == 1


def test_tokens_of_a_large_split_are_mapped(folder, tokenizer):
    encoded = encode(sentences(40), tokenizer, 8)
    assert isinstance(encoded.tokens.base, np.memmap)
    assert not encoded.tokens.flags.writeable
