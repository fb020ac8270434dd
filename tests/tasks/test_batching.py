import numpy as np
import pytest
import torch
from datasets import Dataset
from support.sentences import sentences
from tokenizers import processors
from transformers import AutoTokenizer

from lorakit.errors import DataError
from lorakit.tasks.batching import Padding, encode, epoch_batches, evaluation_batches

LENGTHS = np.random.default_rng(0).integers(5, 100, size=1003).tolist()


def expected(rows, tokenizer, max_length):
    """What the tokenizer's own padding gives."""
    texts = (rows["text"], rows["text_pair"]) if "text_pair" in rows else (rows["text"],)
    made = tokenizer(*texts, truncation=True, max_length=max_length)
    return tokenizer.pad(made, return_tensors="pt")


@pytest.mark.parametrize("pair", [False, True])
def test_collate_equals_the_tokenizers_own_padding(tokenizer, pair):
    data = sentences(40, pair, lambda i: i % 3)
    encoded = encode(data, tokenizer, 12)
    rows = [3, 39, 0, 17]
    batch = encoded.collate(rows)
    assert batch.pop("labels").tolist() == [row % 3 for row in rows]
    reference = expected(data[rows], tokenizer, 12)
    assert batch.keys() == reference.keys()
    assert all(torch.equal(batch[name], reference[name]) for name in reference)


def test_a_real_tokenizer(models_dir):
    tokenizer = AutoTokenizer.from_pretrained(models_dir / "all-MiniLM-L6-v2-fp16")
    texts = ["One short sentence.", "Another, with an unbelievably longer continuation, it seems.", "Two"]
    data = Dataset.from_dict({"text": texts, "text_pair": texts[::-1], "idx": [0, 1, 2]})
    batch, reference = encode(data, tokenizer, 16).collate([0, 1, 2]), expected(data[:], tokenizer, 16)
    assert batch.keys() == reference.keys()
    assert all(torch.equal(batch[name], reference[name]) for name in reference)


def test_what_is_counted(tokenizer):
    data = sentences(2500, label=lambda i: float(i) / 4)
    encoded = encode(data, tokenizer, 8)
    words = np.asarray([len(text.split()) for text in data["text"]])
    assert len(encoded) == 2500
    assert encoded.lengths.tolist() == np.minimum(words + 2, 8).tolist()
    assert encoded.truncated == int(np.sum(words + 2 > 8))
    assert encoded.idx.tolist() == list(range(100, 2600))
    assert encoded.labels.dtype == torch.float32


def test_labels_are_long_or_absent(tokenizer):
    assert encode(sentences(3, label=lambda i: i), tokenizer, 8).labels.dtype == torch.long
    unlabelled = encode(sentences(3), tokenizer, 8)
    assert unlabelled.labels is None
    assert "labels" not in unlabelled.collate([0, 1])


@pytest.mark.parametrize(("pair", "room"), [(False, 3), (True, 5)])
def test_no_room_for_text_is_refused(tokenizer, pair, room):
    with pytest.raises(
        DataError, match=rf"task.max_length: {room - 1} tokens leave no room for text\n.*{room} or more"
    ):
        encode(sentences(3, pair), tokenizer, room - 1)
    assert max(encode(sentences(3, pair), tokenizer, room).lengths) == room


def test_a_row_without_tokens_is_told(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(DataError, match="row 7 of validation has no tokens"):
        encode(Dataset.from_dict({"text": ["w1", " "], "idx": [6, 7]}), tokenizer, 8, "validation")


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7, 32, 100, 1003])
def test_an_epoch_has_every_row_once_and_only_the_last_batch_is_short(count, group):
    batches = epoch_batches(LENGTHS[:count], 16, seed=1, epoch=2, group=group)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert [len(batch) for batch in batches] == [16] * (count // 16) + [count % 16] * (count % 16 > 0)


@pytest.mark.parametrize("group", [False, True])
def test_an_epoch_is_a_function_of_its_arguments(group):
    def order(seed, epoch):
        return epoch_batches(LENGTHS, 16, seed=seed, epoch=epoch, group=group)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def padding(batches):
    """The share of a padded batch that is padding."""
    cells = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches)
    return 1 - sum(LENGTHS) / cells


def test_grouping_saves_most_of_the_padding():
    plain = padding(epoch_batches(LENGTHS, 16, seed=0, epoch=0, group=False))
    grouped = padding(epoch_batches(LENGTHS, 16, seed=0, epoch=0, group=True))
    assert plain > 0.35
    assert grouped < plain / 3
    assert padding(evaluation_batches(LENGTHS, 16)) < 0.02


def test_the_order_of_grouped_batches_tells_nothing_about_length():
    # Over many epochs the mean length at each place of the epoch is that of all rows; 1.1 is over 4 standard errors.
    means = np.asarray(
        [
            [
                np.mean([LENGTHS[row] for row in batch])
                for batch in epoch_batches(LENGTHS, 16, seed=0, epoch=epoch, group=True)
            ]
            for epoch in range(400)
        ]
    )
    thirds = means.mean(axis=0)[:60].reshape(3, 20).mean(axis=1)
    assert np.abs(thirds - np.mean(LENGTHS)).max() < 1.1


def test_rows_meet_different_rows_in_different_epochs():
    def mates(epoch):
        batches = epoch_batches(LENGTHS, 16, seed=0, epoch=epoch, group=True)
        return {frozenset((a, b)) for batch in batches for a in batch for b in batch if a < b}

    first, second = mates(0), mates(1)
    assert len(first & second) < 0.3 * len(first)


def test_evaluation_batches_are_sorted_and_complete():
    batches = evaluation_batches([3, 9, 5, 9, 1], 2)
    assert batches == [[1, 3], [2, 0], [4]]
    assert evaluation_batches([], 2) == []


def test_batches_of_equal_length_are_complete_and_even():
    lengths = [3, 9, 5, 9, 5, 9, 1]
    assert evaluation_batches(lengths, 2, equal=True) == [[1, 3], [5], [2, 4], [0], [6]]
    assert evaluation_batches([], 2, equal=True) == []


@pytest.mark.parametrize("padding", [Padding(left=True), Padding(spare=1), Padding(multiple=4), Padding(equal=True)])
def test_rows_are_padded_as_the_model_needs_it(tokenizer, padding):
    data = sentences(40)
    encoded, usual = encode(data, tokenizer, 12, padding=padding), encode(data, tokenizer, 12, padding=Padding())
    for rows in encoded.batches(7):
        batch, lengths = encoded.collate(rows), encoded.lengths[rows]
        longest = int(lengths.max())
        assert batch["input_ids"].shape[1] == (
            -(-longest // 4) * 4 if padding.multiple == 4 else longest + padding.spare
        )
        assert not padding.equal or len(set(lengths.tolist())) == 1
        for place, row in enumerate(rows):
            kept = batch["attention_mask"][place].bool()
            assert batch["input_ids"][place][kept].tolist() == usual.collate([row])["input_ids"][0].tolist()
            assert kept[-1 if padding.left else 0]
            assert (batch["input_ids"][place][~kept] == tokenizer.pad_token_id).all()
    assert encoded.collate([0], 6)["input_ids"].shape[1] % 6 == 0
