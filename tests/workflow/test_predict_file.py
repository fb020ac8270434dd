"""Files of every kind to a label for each row, and to files of answers with all columns kept."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from support.runs import Bench, make_rows

import lorakit
from lorakit.errors import DataError, LorakitError, UsageError
from lorakit.tasks.data_files import find_files
from lorakit.tasks.new_texts import open_texts
from lorakit.tasks.table import CHUNK
from lorakit.workflow.predict import Prediction
from lorakit.workflow.train import TrainResult

TEXTS = [row["sentence"] for row in make_rows(12, seed=9)]
TEXTS[3] = 'a "good" film,\nwarm; and\r\nlong\n'
LABELS = ("happy", "plain")


def expected(run: Path, texts: list[str]) -> list[list[float]]:
    """The softmax of what transformers says, one text at a time."""
    classifier = lorakit.load(run)
    chances = []
    for text in texts:
        inputs = classifier.tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            chances.append(classifier.model(**inputs).logits[0].softmax(-1).tolist())
    return chances


def label(run: Path, source: Path | str, **options: Any) -> list[Prediction]:
    answers: list[Prediction] = []
    lorakit.predict_file(run, source, on_answer=answers.append, **options)
    return answers


def save_csv(path: Path, separator: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, delimiter=separator)
        rows.writerows([("id", "sentence"), *enumerate(TEXTS)])


def save_gz(path: Path) -> None:
    save_csv(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


def save_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"sentence": text, "id": number}) + "\n" for number, text in enumerate(TEXTS)))


def save_array(path: Path) -> None:
    path.write_text(json.dumps([{"sentence": text} for text in TEXTS]))


def save_parquet(path: Path) -> None:
    parquet.write_table(arrow.table({"sentence": TEXTS, "id": list(range(len(TEXTS)))}), path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.csv", save_csv),
        ("semicolons.csv", lambda path: save_csv(path, ";")),
        ("a.csv.gz", save_gz),
        ("a.jsonl", save_jsonl),
        ("a.json", save_array),
        ("a.parquet", save_parquet),
    ],
)
def test_a_row_is_an_answer(finished: TrainResult, tmp_path: Path, name: str, save: Callable[[Path], None]):
    save(tmp_path / name)
    answers = label(finished.run_dir, tmp_path / name, batch_size=5)
    assert [each.text for each in answers] == TEXTS
    for each, chances in zip(answers, expected(finished.run_dir, TEXTS), strict=True):
        assert [*(each.probabilities or {})] == [*LABELS]
        assert [*(each.probabilities or {}).values()] == pytest.approx(chances, rel=1e-4)
        assert each.label == LABELS[chances.index(max(chances))]


def test_a_line_of_a_text_file_is_a_text(finished: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa good film\r\n\nsentence\n")
    answers = label(finished.run_dir, tmp_path / "a.txt")
    assert [each.text for each in answers] == ["a good film", "", "sentence"]
    monkeypatch.setattr("sys.stdin", io.StringIO("a good film\n\nsentence"))
    assert label(finished.run_dir, "-") == answers
    monkeypatch.setattr("sys.stdin", io.StringIO("good\na\tb\n"))
    with pytest.raises(DataError, match=r"does not fit the task \(line 2\)"):
        label(finished.run_dir, "-")


def test_blank_rows_have_no_label_and_are_told_by_number(
    finished: TrainResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "a.csv").write_text('sentence,n\ngood,1\n"",2\n"a\nb",3\n" ",4\n')
    answers: list[Prediction] = []
    result = lorakit.predict_file(finished.run_dir, tmp_path / "a.csv", on_answer=answers.append)
    assert [bool(each.label) for each in answers] == [True, False, True, False]
    assert (result.rows, result.blank, sum(result.labels.values())) == (4, 2, 2)
    assert "2 rows have no text and got no label (line 3, 6)" in caplog.text


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_answers_stand_beside_the_columns(finished: TrainResult, tmp_path: Path, suffix: str):
    source, out = tmp_path / "a.parquet", tmp_path / "new" / f"answers{suffix}"
    texts = [*TEXTS, None]
    table = {"id": [*range(12), None], "sentence": texts, "tags": [["x", "ü"]] * 13}
    parquet.write_table(arrow.table(table), source)
    result = lorakit.predict_file(finished.run_dir, source, out=out)
    assert (result.out, result.rows, result.blank) == (out, 13, 1)
    rows = read(out)
    names = ["id", "sentence", "tags", "label", "probability", "p(happy)", "p(plain)"]
    assert [*rows[0]] == names
    for number, (row, chances) in enumerate(zip(rows, expected(finished.run_dir, TEXTS), strict=False)):
        assert row["sentence"] == TEXTS[number]
        assert row["id"] == (str(number) if suffix == ".csv" else number)
        assert row["tags"] == ('["x", "ü"]' if suffix == ".csv" else ["x", "ü"])
        assert row["label"] == LABELS[chances.index(max(chances))]
        assert [float(row["p(happy)"]), float(row["p(plain)"])] == pytest.approx(chances, rel=1e-4)
        assert float(row["probability"]) == pytest.approx(max(chances), rel=1e-4)
    nothing = "" if suffix == ".csv" else None
    assert [rows[-1][name] for name in names[3:]] == [nothing] * 4
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)] if path.suffix == ".csv" else [json.loads(line) for line in file]


def test_a_column_of_the_same_name_is_kept_and_told(
    finished: TrainResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "a.csv").write_text("label,sentence\nmine,good\n")
    lorakit.predict_file(finished.run_dir, tmp_path / "a.csv", out=tmp_path / "b.csv")
    (row,) = read(tmp_path / "b.csv")
    assert row["label"] == "mine"
    assert row["predicted_label"] in LABELS
    assert "the file has a column label: the answers are in predicted_label" in caplog.text


def test_a_file_that_was_labelled_is_labelled_again_into_columns_of_other_names(finished, tmp_path, caplog):
    save_csv(tmp_path / "a.csv")
    result = lorakit.predict_file(finished.run_dir, tmp_path / "a.csv", out=tmp_path / "b.csv")
    assert json.loads(json.dumps(result.to_dict()))["labels"] == result.labels
    lorakit.predict_file(finished.run_dir, tmp_path / "b.csv", out=tmp_path / "c.csv")
    lorakit.predict_file(finished.run_dir, tmp_path / "c.csv", out=tmp_path / "d.csv")
    names = (tmp_path / "d.csv").read_text().splitlines()[0].split(",")
    assert len({*names}) == len(names) == len((tmp_path / "a.csv").read_text().splitlines()[0].split(",")) + 3 * 4
    assert "a column label: the answers are in predicted_predicted_label" in caplog.text
    caplog.clear()
    lorakit.predict_file(finished.run_dir, tmp_path / "d.csv")
    assert "column" not in caplog.text


def test_thresholds(finished: TrainResult, tmp_path: Path):
    """The most probable label that reaches its threshold, where there is one; the rest is counted."""
    save_csv(tmp_path / "a.csv")
    chances = expected(finished.run_dir, TEXTS)
    middle = sorted(happy for happy, _ in chances)[6]
    answers: list[Prediction] = []
    result = lorakit.predict_file(
        finished.run_dir, tmp_path / "a.csv", thresholds={"happy": middle, "plain": 0.99}, on_answer=answers.append
    )
    assert [answer.label for answer in answers] == ["happy" if happy >= middle - 1e-6 else "" for happy, _ in chances]
    assert (result.abstained, dict(result.labels), result.blank) == (6, {"happy": 6}, 0)
    for answer, (happy, plain) in zip(answers, chances, strict=True):
        assert answer.probability == pytest.approx(happy if answer.label else max(happy, plain), abs=1e-5)
    second = lorakit.predict(finished.run_dir, TEXTS, thresholds={"happy": 1.0})
    assert {answer.label for answer in second} == {"plain"}
    assert [answer.probability for answer in second] == pytest.approx([plain for _, plain in chances], abs=1e-5)


@pytest.mark.parametrize(
    ("label", "least", "what"), [("sad", 0.5, "there is no label 'sad'"), ("happy", 2, "no probability")]
)
def test_thresholds_of_other_labels_are_refused(finished: TrainResult, label: str, least: float, what: str):
    with pytest.raises(UsageError) as caught:
        lorakit.predict(finished.run_dir, TEXTS, thresholds={label: least})
    assert what in caught.value.problems[0].what
    assert caught.value.problems[0].valid in ("happy, plain", "0 to 1")


def test_abstaining(finished: TrainResult, tmp_path: Path):
    save_csv(tmp_path / "a.csv")
    chances = [max(row) for row in expected(finished.run_dir, TEXTS)]
    below = sorted(chances)[6] - 1e-6  # six are below
    answers: list[Prediction] = []
    result = lorakit.predict_file(finished.run_dir, tmp_path / "a.csv", abstain=below, on_answer=answers.append)
    assert (result.rows, result.abstained, sum(result.labels.values())) == (12, 6, 6)
    assert [bool(each.label) for each in answers] == [chance > below for chance in chances]
    assert [each.probability for each in answers] == pytest.approx(chances, rel=1e-4)


def test_columns_are_named(bench: Bench, finished: TrainResult, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"body": {"en": "good"}, "other": "film"}\n')
    with pytest.raises(DataError, match="there is no column 'sentence'") as caught:
        label(finished.run_dir, tmp_path / "a.jsonl")
    assert "--text with the name" in caught.value.problems[0].hint
    assert "other" in caught.value.problems[0].valid
    assert [each.text for each in label(finished.run_dir, tmp_path / "a.jsonl", text="body.en")] == ["good"]
    lorakit.predict_file(finished.run_dir, tmp_path / "a.jsonl", text="body.en", out=tmp_path / "b.jsonl")
    assert [*read(tmp_path / "b.jsonl")[0]][:3] == ["body", "other", "label"]
    with pytest.raises(DataError, match="the task is one text"):
        label(finished.run_dir, tmp_path / "a.jsonl", text="body.en", text_pair="other")
    pairs = bench.train("training.max_steps=1", kind="pair").run_dir
    (tmp_path / "pairs.csv").write_text("first,then\ngood,film\n")
    assert [each.text for each in label(pairs, tmp_path / "pairs.csv", text_pair="then")] == [("good", "film")]
    lorakit.merge(finished.run_dir, out=tmp_path / "merged")
    (tmp_path / "text.csv").write_text("text\ngood\n")
    (tmp_path / "text.txt").write_text("good\n")
    (ours,) = label(finished.run_dir, tmp_path / "text.csv", text="text")
    (theirs,) = label(tmp_path / "merged", tmp_path / "text.csv")
    assert (theirs.text, theirs.label) == ("good", ours.label)
    assert theirs.probabilities == pytest.approx(ours.probabilities, rel=1e-4)
    for source in ("-", "text.txt"):
        with pytest.raises(DataError, match="no columns to choose"):
            label(finished.run_dir, source if source == "-" else tmp_path / source, text="text")


def test_numbers_are_the_answer(bench: Bench, tmp_path: Path):
    run = bench.train(kind="number").run_dir
    (tmp_path / "a.csv").write_text("sentence\ngood\n")
    lorakit.predict_file(run, tmp_path / "a.csv", out=tmp_path / "b.parquet")
    (row,) = read(tmp_path / "b.parquet")
    assert [*row] == ["sentence", "label"]
    assert row["label"] == pytest.approx(float(lorakit.predict(run, "good")[0].label))
    with pytest.raises(UsageError, match="no probability to abstain below"):
        lorakit.predict_file(run, tmp_path / "a.csv", abstain=0.5)
    with pytest.raises(UsageError, match="no probability that could reach a threshold"):
        lorakit.predict_file(run, tmp_path / "a.csv", thresholds={"x": 0.5})


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"sentence\n", "no row to label"),
        (b"", "empty"),
        (b"sentence\ncaf\xe9\n", "not UTF-8"),
        (b'{"sentence": 3}\n', "holds a int where text is needed"),
    ],
)
def test_what_cannot_be_labelled(finished: TrainResult, tmp_path: Path, content: bytes, what: str):
    path = tmp_path / ("a.jsonl" if content.startswith(b"{") else "a.csv")
    path.write_bytes(content)
    with pytest.raises(LorakitError, match=what):
        lorakit.predict_file(finished.run_dir, path, out=tmp_path / "out.csv")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_one_column_is_not_both_texts_of_a_pair(tmp_path):
    (tmp_path / "a.csv").write_text("first,second\none,two\n")
    with pytest.raises(DataError, match="'second' would be both texts"):
        open_texts(find_files(str(tmp_path / "a.csv"), ""), ("second", None), ("first", "second"), pair=True)


def test_a_data_set_is_no_file(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    for source in ("hub:a/b", str(tmp_path)):
        with pytest.raises(DataError, match="is a data set and no file"):
            lorakit.predict_file("runs/none", source)


def test_a_suffix_that_none_writes(finished: TrainResult, tmp_path: Path):
    save_csv(tmp_path / "a.csv")
    with pytest.raises(UsageError, match=r"cannot write answers as '\.xlsx'"):
        lorakit.predict_file(finished.run_dir, tmp_path / "a.csv", out=tmp_path / "out.xlsx")


def test_a_long_file_is_answered_while_it_is_read(finished: TrainResult, tmp_path: Path):
    """A mistake in the third table of rows comes after all answers about the first."""
    rows = [{"sentence": "good"}] * (2 * CHUNK) + [{"sentence": 3}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers: list[Prediction] = []
    with pytest.raises(DataError, match="line 2001"):
        lorakit.predict_file(finished.run_dir, tmp_path / "a.jsonl", on_answer=answers.append)
    assert len(answers) >= CHUNK
