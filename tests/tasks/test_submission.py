import csv

import numpy as np
import pytest
from datasets import Dataset

from lorakit.errors import UsageError
from lorakit.tasks.submission import prediction_rows, write_predictions
from lorakit.tasks.task import Task, tasks


@pytest.mark.parametrize(
    ("name", "predictions", "texts"),
    [
        ("mnli", [2, 0, 1], ["contradiction", "entailment", "neutral"]),
        ("rte", [1, 0, 0], ["not_entailment", "entailment", "entailment"]),
        ("qnli", [1, 0, 0], ["not_entailment", "entailment", "entailment"]),
        ("wnli", [1, 0, 0], ["1", "0", "0"]),
        ("cola", [1, 0, 0], ["1", "0", "0"]),
        ("stsb", [5.4, -0.2, 2.34567], ["5.000", "0.000", "2.346"]),
    ],
)
def test_glues_submission_form(tmp_path, name, predictions, texts):
    task = tasks.get(name)
    path = write_predictions(tmp_path / "new" / "p.tsv", task, [0, 1, 2], np.array(predictions), split=task.test[0])
    lines = ["index\tprediction", *(f"{i}\t{text}" for i, text in enumerate(texts))]
    assert path.read_text() == "\n".join(lines) + "\n"
    assert [file.name for file in path.parent.iterdir()] == ["p.tsv"]


def test_rows_are_in_the_order_of_idx():
    assert prediction_rows(tasks.get("sst2"), [7, 2, 5], np.array([1, 0, 1])) == [(2, "0"), (5, "1"), (7, "1")]


def test_other_splits_and_tasks_get_a_csv_with_names_and_probabilities(tmp_path):
    chances = np.array([[0.25, 0.75], [0.9, 0.1]])
    expected = [
        {"idx": "3", "prediction": "b, c", "probability_a": "0.9", "probability_b, c": "0.1"},
        {"idx": "9", "prediction": "a", "probability_a": "0.25", "probability_b, c": "0.75"},
    ]
    task = Task("custom", "", ("text",), "label", ("a", "b, c"), ("accuracy",))
    path = write_predictions(tmp_path / "p.csv", task, [9, 3], np.array([0, 1]), chances)
    assert list(csv.DictReader(path.open(newline=""))) == expected
    path = write_predictions(tmp_path / "v.csv", tasks.get("sst2"), [9, 3], np.array([0, 1]), split="validation")
    assert path.read_text() == "idx,prediction\n3,positive\n9,negative\n"


def test_texts_and_labels_stand_beside_the_predictions(tmp_path):
    task = Task("custom", "", ("a", "b"), "label", ("no", "yes"), ("accuracy",))
    rows = Dataset.from_dict({"text": ["x", "y"], "text_pair": ["p", "q"], "label": [1, 0], "idx": [5, 4]})
    for suffix in ("csv", "jsonl", "parquet"):
        path = tmp_path / f"p.{suffix}"
        write_predictions(path, task, rows["idx"], np.array([1, 1]), np.array([[0.25, 0.75], [0.5, 0.5]]), rows=rows)
        found = Dataset.from_json(str(path)) if suffix == "jsonl" else getattr(Dataset, f"from_{suffix}")(str(path))
        assert found.to_list() == [
            {
                "idx": 4,
                "text": "y",
                "text_pair": "q",
                "label": "no",
                "prediction": "yes",
                "probability_no": 0.5,
                "probability_yes": 0.5,
            },
            {
                "idx": 5,
                "text": "x",
                "text_pair": "p",
                "label": "yes",
                "prediction": "yes",
                "probability_no": 0.25,
                "probability_yes": 0.75,
            },
        ]
    with pytest.raises(UsageError, match="cannot write answers as"):
        write_predictions(tmp_path / "p.xls", task, rows["idx"], np.array([1, 1]), rows=rows)


def test_numbers_outside_glue_are_not_clipped(tmp_path):
    task = Task("custom", "", ("text",), "label", (), ("mse",))
    path = write_predictions(tmp_path / "p.csv", task, [0, 1], np.array([-3.5, 123.25]), np.zeros((2, 1)))
    assert path.read_text() == "idx,prediction\n0,-3.5\n1,123.25\n"


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="predictions cannot be written"):
        write_predictions(tmp_path / "file" / "p.tsv", tasks.get("sst2"), [0], np.array([0]))
