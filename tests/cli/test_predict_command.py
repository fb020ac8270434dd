import json
from pathlib import Path

import pytest


def test_options_reach_the_function_and_answers_are_printed_as_they_come(cli, here, workflow):
    ran = cli(
        "predict", "runs/a", "texts.csv", "--text", "body", "--weights", "best", "--rank", "2", "--batch-size", "7"
    )
    name, args, options = workflow.call
    assert (name, args) == ("predict_file", (Path("runs/a"), "texts.csv"))
    assert options == {
        "text": "body",
        "text_pair": None,
        "out": None,
        "batch_size": 7,
        "abstain": None,
        "thresholds": None,
        "weights": "best",
        "rank": 2,
    }
    assert ran.out == "positive\t0.8750\n\t0.8750\n"


def test_every_label_on_the_line(cli, here, workflow):
    ran = cli("predict", "runs/a", "texts.csv", "--proba")
    assert ran.out.splitlines()[0] == "positive\t0.8750\tnegative=0.1250\tpositive=0.8750"


def test_json_is_one_object(cli, here, workflow):
    data = json.loads(cli("predict", "runs/a", "-", "--json").out)
    assert (data["run"], data["rows"], data["abstained"]) == ("runs/a", 2, 1)
    assert [item["text"] for item in data["predictions"]] == ["a fine film", "a dull film"]
    assert data["predictions"][0]["probabilities"] == {"negative": 0.125, "positive": 0.875}


def test_a_file_of_answers_leaves_standard_output_empty(cli, here, workflow):
    ran = cli("predict", "runs/a", "texts.csv", "--out", "answers.csv", "--abstain", "0.9")
    assert ran.out == ""
    assert "1 of 2 rows have no label: their probability is below 0.9" in ran.err
    assert "2 rows labelled: answers.csv" in ran.err
    (here / "answers.csv").write_text("mine")
    ran = cli("predict", "runs/a", "texts.csv", "--out", "answers.csv")
    assert ran.code == 2
    assert "exists already" in ran.err
    assert len(workflow.calls) == 1


def test_thresholds_are_read_and_counted(cli, here, workflow):
    ran = cli("predict", "runs/a", "-", "--threshold", "a=b=0.9", "--threshold", "positive=1")
    assert workflow.call[2]["thresholds"] == {"a=b": 0.9, "positive": 1.0}
    assert "1 of 2 rows have no label: their probability is below every threshold" in ran.err


@pytest.mark.parametrize(
    "option",
    [
        ("--batch-size", "0"),
        ("--abstain", "1.5"),
        ("--threshold", "0.5"),
        ("--threshold", "spam=much"),
        ("--threshold", "spam=nan"),
        ("--threshold", "spam=1.5"),
        ("--threshold", "a=0.5", "--threshold", "a=0.6"),
    ],
)
def test_options_out_of_range(cli, here, workflow, option):
    assert cli("predict", "runs/a", "texts.csv", *option).code == 2
    assert workflow.calls == []


def test_a_missing_file_is_told_before_anything_is_loaded(cli, here):
    ran = cli("predict", "runs/a", "texts.txt")
    assert ran.code == 2
    assert "there is no file texts.txt" in ran.err


def test_several_labels_are_printed_with_their_probabilities():
    from lorakit.cli.predict import line
    from lorakit.workflow.predict import Prediction

    found = Prediction("t", "a;c", None, {"a": 0.75, "b": 0.25, "c": 0.5}, ("a", "c"))
    assert line(found, proba=False) == "a;c\t0.7500;0.5000"
    assert line(found, proba=True) == "a;c\t0.7500;0.5000\ta=0.7500\tb=0.2500\tc=0.5000"
    assert line(Prediction("t", "", None, {"a": 0.25}, ()), proba=False) == "\t"
