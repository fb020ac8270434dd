import json

import pytest

from lorakit.errors import DataError
from lorakit.tasks.data_files import find_files
from lorakit.tasks.guessing import guess_columns

REVIEWS = [(f"this film number {row} is long and dull", "bad" if row % 2 else "good") for row in range(12)]


def guess(path, rows, **given):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return guess_columns(find_files(str(path), ""), **given)


def rows_of(**columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


TEXTS, LABELS = [list(column) for column in zip(*REVIEWS, strict=True)]


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        ({"id": range(12), "review": TEXTS, "verdict": LABELS}, ("review",), "verdict"),
        ({"a": TEXTS, "b": LABELS}, ("a",), "b"),
        ({"b": LABELS, "a": TEXTS}, ("a",), "b"),
        ({"idx": [0, 1] * 6, "Text": TEXTS, "Category": LABELS, "source": LABELS}, ("Text",), "Category"),
        ({"body": TEXTS, "stars": [1, 2, 3, 4] * 3}, ("body",), "stars"),
        ({"sentence1": TEXTS, "sentence2": TEXTS, "label": LABELS}, ("sentence1", "sentence2"), "label"),
        ({"hypothesis": TEXTS, "premise": TEXTS, "label": LABELS}, ("premise", "hypothesis"), "label"),
        ({"title": ["short one"] * 12, "text": TEXTS, "label": LABELS}, ("text",), "label"),
        (
            {"what it says": TEXTS, "day": [f"2026-01-{row + 1:02}" for row in range(12)], "kind": LABELS},
            ("what it says",),
            "kind",
        ),
    ],
)
def test_columns_are_told_by_name_or_by_what_they_hold(tmp_path, columns, text, label):
    found = guess(tmp_path / "a.jsonl", rows_of(**columns))
    assert (found.text, found.label, found.rows, found.regression) == (text, label, 12, False)
    told = "\n".join(found.told)
    assert all(f"'{name}'" in told for name in columns)  # what is used, and what is not


@pytest.mark.parametrize(
    ("numbers", "regression"),
    [
        ([row / 3 for row in range(12)], True),
        ([1, 2, 3, 4, 5, 6] * 2, False),
        ([float(row % 3) for row in range(12)], False),
    ],
)
def test_fractions_are_numbers_to_predict_and_grades_are_classes(tmp_path, numbers, regression):
    found = guess(tmp_path / "a.jsonl", rows_of(text=TEXTS, score=numbers))
    assert (found.label, found.regression) == ("score", regression)


def test_lists_are_several_labels(tmp_path):
    found = guess(tmp_path / "a.jsonl", rows_of(text=TEXTS, labels=[["a", "b"], []] * 6))
    assert (found.label, found.multi_label, found.regression) == ("labels", True, False)
    assert not guess(tmp_path / "a.jsonl", rows_of(text=TEXTS, labels=LABELS)).multi_label


def test_given_columns_are_taken_and_the_rest_is_guessed(tmp_path):
    rows = rows_of(text=TEXTS, note=TEXTS, label=LABELS, tone=LABELS)
    found = guess(tmp_path / "a.jsonl", rows, text="note", label="tone")
    assert (found.text, found.label, found.told) == (("note",), "tone", [])
    assert guess(tmp_path / "a.jsonl", rows, label="tone").text == ("text",)
    assert guess(tmp_path / "a.jsonl", rows, text="note").label == "label"


@pytest.mark.parametrize(
    ("columns", "key", "valid"),
    [
        ({"a": TEXTS, "b": LABELS, "c": LABELS}, "task.label", "b, c"),
        ({"a": TEXTS, "z": TEXTS, "label": LABELS}, "task.text", "a, z"),
        ({"text": TEXTS, "id": range(12)}, "task.label", "text, id"),
        ({"text": TEXTS, "n": range(12)}, "task.label", "text, n"),
        ({"n": range(12), "label": [0, 1] * 6}, "task.text", "n, label"),
    ],
)
def test_what_is_not_clear_is_asked(tmp_path, columns, key, valid):
    with pytest.raises(DataError) as caught:
        guess(tmp_path / "a.jsonl", rows_of(**columns))
    (problem,) = caught.value.problems
    assert (problem.key, problem.valid, problem.hint) == (key, valid, f"{key}=COLUMN")


def test_a_column_that_is_not_there_is_named_with_the_choices(tmp_path):
    with pytest.raises(DataError, match="no column 'reviews'") as caught:
        guess(tmp_path / "a.jsonl", rows_of(review=TEXTS, label=LABELS), text="reviews")
    assert "did you mean 'review'?" in str(caught.value)


def test_the_length_is_that_which_nearly_all_texts_keep_within(tmp_path):
    texts = ["word " * 20] * 99 + ["word " * 500]
    assert guess(tmp_path / "a.jsonl", rows_of(text=texts, label=["x", "y"] * 50)).characters == 100


def test_a_first_row_is_not_taken_for_a_header(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for text, label in REVIEWS))
    with pytest.raises(DataError, match="looks like a row and not like a header"):
        guess_columns(find_files(str(path), ""))
    named = guess_columns(find_files(str(path), ""), text=TEXTS[0], label=LABELS[0])
    assert (named.text, named.label) == ((TEXTS[0],), LABELS[0])
    path.write_text(
        "".join(
            f"{row}\t{label}\n" for row, label in [("message", "spam"), *zip(TEXTS, ["spam", "ham"] * 6, strict=True)]
        )
    )
    assert guess_columns(find_files(str(path), "")).label == "spam"
