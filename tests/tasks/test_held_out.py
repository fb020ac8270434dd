from collections import Counter

import numpy as np
import pytest

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.sources import load_task


def load(path, labels, seed=0, **more):
    path.write_text("text,label\n" + "".join(f"text {row},{label}\n" for row, label in enumerate(labels)))
    section = TaskSection(name="custom", train=str(path), text="text", label="label", **more)
    return load_task(section, seed=seed).splits


def held(splits):
    return splits["validation"]["idx"][:]


LABELS = ["pos" if row % 3 else "neg" for row in range(20)]


def test_held_out_rows_are_drawn_by_the_splits_own_seed_and_not_by_the_runs(tmp_path):
    path = tmp_path / "a.csv"
    first, other_run, other_split = (
        load(path, LABELS, seed, split_seed=split, validation_fraction=0.25) for seed, split in ((0, 0), (1, 0), (0, 1))
    )
    assert held(first) == held(other_run) != held(other_split)
    assert sorted(held(first) + first["train"]["idx"][:]) == list(range(20))
    assert held(first) == sorted(held(first))


def test_a_subset_of_the_training_rows_never_has_held_out_ones(tmp_path):
    for seed in range(4):
        splits = load(tmp_path / "a.csv", LABELS, seed, validation_fraction=0.25, max_train_rows=8)
        assert len(splits["train"]) == 8
        assert not set(splits["train"]["idx"][:]) & set(held(splits))


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ((40, 40), 0.1, (4, 4)),
        ((60, 30, 10), 0.1, (6, 3, 1)),
        ((90, 2), 0.1, (8, 1)),  # round(0.1 * 92) = 9, and the rare class has one on both sides
        ((95, 4, 1), 0.1, (9, 1, 0)),  # a class of one row is trained on
        ((5, 5), 0.001, (1, 1)),
        ((5, 5), 0.999, (4, 4)),
        ((7, 3), 0.5, (4, 1)),  # 3.5 and 1.5: round(5.0) in all, the first of equals gets the odd row
        ((1, 1), 0.5, (1,)),  # one row of two, whichever it is
    ],
)
def test_each_class_keeps_its_share(tmp_path, sizes, fraction, expected):
    labels = [name for name, size in zip("abc", sizes, strict=False) for _ in range(size)]
    splits = load(tmp_path / "a.csv", labels, validation_fraction=fraction)
    counts = Counter(splits["validation"]["label"][:])
    if sizes == (1, 1):
        assert [*counts.values()] == [1]
    else:
        assert [counts[label] for label in range(len(sizes))] == [*expected]
    assert len(splits["train"]) == sum(sizes) - sum(expected)


@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.25, 5), (0.999, 19)])
def test_numbers_to_predict_are_drawn_all_together(tmp_path, fraction, count):
    splits = load(tmp_path / "a.csv", range(20), regression=True, validation_fraction=fraction)
    assert len(held(splits)) == count


def test_without_a_seed_of_its_own_the_split_is_what_older_versions_drew(tmp_path):
    for seed in (3, 4):
        order = np.random.default_rng([2, seed]).permutation(20)
        splits = load(tmp_path / "a.csv", LABELS, seed, split_seed=None, validation_fraction=0.25)
        assert held(splits) == sorted(order[:5].tolist())


def test_one_row_cannot_be_split(tmp_path):
    with pytest.raises(DataError, match="one row is not enough"):
        load(tmp_path / "a.csv", ["1.5"], regression=True)
