import numpy as np
import pytest
from datasets import Dataset

from lorakit.tasks.survey import remarks, scripts_of, survey_split
from lorakit.tasks.task import Task

TASK = Task("custom", "", ("text",), "label", ("no", "yes"), ("accuracy",))


def split(*rows):
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


TRAIN = split(("a b", 0), ("A  b", 1), ("a b", 0), ("c", 1), ("d", 1), ("d", 1))
VALIDATION = split(("c", 1), ("e", 0), (" D ", 0))


def looked_at(task=TASK, lengths=(1, 2, 3, 4, 5, 90), cut=1):
    train = survey_split(task, "train", TRAIN, TRAIN, np.array(lengths), cut, 90)
    return [train, survey_split(task, "validation", VALIDATION, TRAIN, np.array([1, 1, 1]), 0, 90)]


def test_rows_are_counted_by_class_and_by_text():
    train, validation = looked_at()
    assert train.classes == {"no": 2, "yes": 4}
    assert (train.rows, train.duplicates, train.conflicts, train.overlap) == (6, 3, 1, 0)
    assert train.examples == ["a b: no, yes"]
    assert (validation.duplicates, validation.conflicts, validation.overlap) == (0, 0, 2)
    assert (train.lengths.median, train.lengths.longest, train.lengths.cut) == (3, 90, 1)


def test_what_a_person_should_look_at_is_said_in_sentences():
    told = "\n".join(remarks(looked_at(), {"latin": 0.9, "greek": 0.1}))
    for words in (
        "fewer than 10 training rows: no (2), yes (4)",
        "train: texts with more than one label: 1, such as a b: no, yes",
        "train: 3 of 6 rows have a text that an earlier row has",
        "validation: 2 of 3 texts are training texts too",
        "train: 1 of 6 rows are cut to 90 tokens",
        "latin 90 %, greek 10 %",
    ):
        assert words in told
    assert (
        remarks(
            [survey_split(TASK, "train", split(*[(f"{n}", n % 2) for n in range(40)]), TRAIN, np.ones(40), 0, 9)], {}
        )
        == []
    )


def test_a_class_without_rows_and_lopsided_classes_are_told():
    many = split(*[(f"t{row}", 1) for row in range(300)], *[(f"u{row}", 0) for row in range(20)])
    found = [
        survey_split(TASK, "train", many, many, np.ones(320), 0, 9),
        survey_split(TASK, "validation", split(("v", 1)), many, np.ones(1), 0, 9),
    ]
    told = "\n".join(remarks(found, {}))
    assert "300 training rows of yes and 20 of no" in told
    assert "validation has no row of no" in told


def test_numbers_to_predict_have_no_classes():
    numbers = Task("custom", "", ("text",), "label", (), ("pearson",))
    train = looked_at(numbers)[0]
    assert train.classes == {}
    assert train.examples == ["a b: 0, 1"]


def test_pairs_are_compared_as_pairs():
    task = Task("custom", "", ("a", "b"), "label", ("no", "yes"), ("accuracy",))
    rows = Dataset.from_dict({"text": ["x", "x"], "text_pair": ["y", "z"], "label": [0, 1]})
    assert survey_split(task, "train", rows, rows, np.ones(2), 0, 9).conflicts == 0


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["abc", "déf"], {"latin": 1.0}),
        (["мир", "abc"], {"cyrillic": 0.5, "latin": 0.5}),
        (["日本", "ab"], {"cjk": 0.5, "latin": 0.5}),
        (["12 !", ""], {}),
    ],
)
def test_letters_are_counted_by_their_script(texts, expected):
    assert scripts_of(texts) == expected


def test_rows_with_several_labels_are_counted_for_each():
    task = Task("custom", "", ("text",), "label", ("hot", "sweet"), ("macro_f1",), multi_label=True)
    rows = Dataset.from_dict({"text": ["a", "b", "A", "c"], "label": [[1, 1], [0, 1], [0, 0], [1, 0]]})
    found = survey_split(task, "train", rows, rows, np.ones(4), 0, 9)
    assert found.classes == {"hot": 2, "sweet": 2}
    assert found.examples == ["a: hot + sweet, no label"]
