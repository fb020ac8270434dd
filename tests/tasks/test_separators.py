"""A csv is cut at commas wherever commas can be meant, and as its header shows elsewhere."""

import csv
import io
import logging
import random

import pytest

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.readers import read_csv
from lorakit.tasks.separators import find_separator
from lorakit.tasks.sources import load_task
from lorakit.tasks.table import whole

WANTED = ("text", "label")


@pytest.mark.parametrize(
    ("lines", "separator"),
    [
        (["text,label", "a;b,no"], ","),
        (["text;label", "a, b;no"], ";"),
        (["text|label", "a; b, c|no"], "|"),
        (["text\tlabel", "a; b, c|d\tno"], "\t"),
        (['"text";"label"', '"a;b";"no"'], ";"),
        (['"the text; all of it","label"', "a;b,no"], ","),
        (["text", "a; b, c"], ","),
        (["id;text, in English;label", "1;a;no"], ";"),
        (["text,label;more", "a,b"], ","),
        (["text;label|gold", "a;no|1"], ";"),
        (["label;text|x", "no;a|1"], ";"),
        (["\n", "text;label", "a;no"], ";"),
        (["text;label", '"a', 'b";no'], ";"),
        (["other,columns;here", "a,b;c"], ","),
        (["other;columns", "a;b"], ";"),
        (["a;b|c", "1;2|3", "4;5", "6;7"], ";"),
        ([], ","),
        (['text;la"bel', "a;no"], ";"),
        (['"', ";"], ","),
    ],
)
def test_the_separator(lines, separator):
    lines = [line if line.endswith("\n") else line + "\n" for line in lines]
    assert find_separator("a.csv", lines, WANTED) == separator


def test_a_header_that_can_be_cut_in_two_ways_is_told():
    with pytest.raises(DataError) as caught:
        find_separator("a.csv", ["a;b|c\n", "1;2|3\n"], WANTED)
    (problem,) = caught.value.problems
    assert problem.what == "the fields may be separated by semicolons or bars: a;b|c"
    assert (problem.where, problem.hint) == ("a.csv:1", "save the file with commas")


WORDS = [
    "the film,",
    "a dull one;",
    "was 'fine'",
    "(really)",
    "|",
    "no:",
    "yes",
    "it's",
    '"quoted"',
    "line\nbreak",
    "tab\tbed",
]


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_sentences_full_of_other_separators(tmp_path, separator, quoting):
    for seed in range(20):
        draw = random.Random(seed)
        rows = [(" ".join(draw.choices(WORDS, k=12)), draw.choice(["pos", "neg"])) for _ in range(20)]
        file = io.StringIO()
        csv.writer(file, delimiter=separator, quoting=quoting).writerows([WANTED, *rows])
        path = tmp_path / "a.csv"
        path.write_bytes(file.getvalue().encode())
        table = whole(read_csv(path, WANTED))
        assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == rows
        assert list(table.notes) == ([] if separator == "," else [f"the fields are separated by {NAMES[separator]}"])


NAMES = {";": "semicolons", "|": "bars", "\t": "tabs"}


def test_another_separator_is_said_once_and_commas_never(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="lorakit")
    for separator in ",;":
        path = tmp_path / f"a{ord(separator)}.csv"
        path.write_text("".join(f"{line}\n".replace("#", separator) for line in ("text#label", "a#no", "b#yes")))
        section = TaskSection(name="custom", train=str(path), validation=str(path), text="text", label="label")
        data = load_task(section, seed=0)
        assert data.splits["train"]["text"][:] == ["a", "b"]
    assert data.origin == f"{path}, {path}; {path}: the fields are separated by semicolons"
    assert caplog.messages == [f"{path}: the fields are separated by semicolons"]


def test_a_row_that_does_not_fit_says_what_to_do(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text;label\na;b;no\n")
    with pytest.raises(DataError) as caught:
        whole(read_csv(path, WANTED))
    (problem,) = caught.value.problems
    assert problem.where == f"{path}:2"
    assert problem.hint == 'put quotes around a text that holds a ";"'


def test_a_missing_column_is_told_with_the_columns_as_cut(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("review;verdict\na;no\nb;yes\n")
    with pytest.raises(DataError) as caught:
        load_task(TaskSection(name="custom", train=str(path), text="text", label="label"), seed=0)
    assert caught.value.problems[0].valid == "review, verdict"
