import datetime
import json
import os
import subprocess
import sys

import pytest

from lorakit.errors import DataError
from lorakit.tasks.labels import LabelMap, unlabelled
from lorakit.tasks.rows import Columns, gather
from lorakit.tasks.table import Table


def rows(*labels, **more):
    table = Table("a.csv", {"text": ["t"] * len(labels), "label": list(labels)}, range(2, len(labels) + 2))
    return gather([table], Columns(("text",), "label", **more))


def numbers(*labels):
    return rows(*labels, regression=True).labels.tolist()


@pytest.mark.parametrize(
    ("values", "names", "ids"),
    [
        ((2, 0, 1, 0), ("0", "1", "2"), [2, 0, 1, 0]),
        (("10", "2", "2"), ("2", "10"), [1, 0, 0]),
        ((1.0, 0.0), ("0", "1"), [1, 0]),
        (("1.0", "0"), ("0", "1"), [1, 0]),
        ((-1, 1), ("-1", "1"), [0, 1]),
        ((True, False), ("false", "true"), [1, 0]),
        (("spam ", "ham"), ("ham", "spam"), [1, 0]),
        (("001", "1", "+1", "01", 0), ("0", "1", "+1", "01", "001"), [4, 1, 2, 3, 0]),
        (("True", "False"), ("False", "True"), [1, 0]),
        (("True", True, "FALSE", False), ("false", "true"), [1, 1, 0, 0]),
        (("True", "Fake", "Mixed"), ("Fake", "Mixed", "True"), [2, 0, 1]),
        (
            (datetime.date(2026, 1, 2), "2026-01-01", datetime.datetime(2026, 1, 2)),
            ("2026-01-01", "2026-01-02"),
            [1, 0, 1],
        ),
        ((datetime.datetime(2026, 1, 2, 3), datetime.time(4)), ("04:00:00", "2026-01-02 03:00:00"), [1, 0]),
    ],
)
def test_names_are_found_in_the_data(values, names, ids):
    found = LabelMap.found_in(rows(*values), "label")
    assert found.names == names
    assert found.encode(rows(*values), "label").tolist() == ids


@pytest.mark.parametrize(
    ("names", "values", "ids"),
    [
        (("neg", "pos"), ("pos", "neg"), [1, 0]),
        (("neg", "pos"), ("1", "0"), [1, 0]),
        (("neg", "pos"), (1, 0), [1, 0]),
        (("1", "0"), ("1", "0"), [0, 1]),
        (("1", "2"), (2, 1), [1, 0]),
        (("True", "false"), (True, "False", "TRUE"), [0, 1, 0]),
        (("0.5", "1.0"), (0.5, 1, "1.0"), [0, 1, 1]),
    ],
)
def test_given_names_are_matched_by_name_or_by_id(names, values, ids):
    assert LabelMap.of_names(names, rows(*values)).encode(rows(*values), "label").tolist() == ids


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ((True, False), ("false", "true")),
        (("False", "True"), ("False", "True")),
        (("TRUE", "false"), ("TRUE", "false")),
    ],
)
def test_a_boolean_is_one_label_however_another_file_writes_it(train, names):
    found = LabelMap.found_in(rows(*train), "label")
    assert found.names == names
    yes = [name.lower() for name in names].index("true")
    other = rows(True, "True", "true", "TRUE", False, "False", "false")
    assert found.encode(other, "label").tolist() == [yes] * 4 + [1 - yes] * 3


def test_labels_that_are_equal_as_numbers_have_one_order_whatever_the_hash_seed():
    code = """
import json
from lorakit.tasks.labels import LabelMap
from lorakit.tasks.rows import Columns, gather
from lorakit.tasks.table import Table
labels = ["0", "00", "+0", "-0", "1", "01", "001", "+1", "000"]
table = Table("a.csv", {"text": ["t"] * len(labels), "label": labels}, range(len(labels)))
print(json.dumps(LabelMap.found_in(gather([table], Columns(("text",), "label")), "label").names))
"""
    orders = set()
    for seed in ("1", "2", "3"):
        told = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        orders.add(tuple(json.loads(told.stdout)))
    assert orders == {("0", "+0", "-0", "00", "000", "1", "+1", "01", "001")}


def test_a_label_out_of_range_is_told_with_its_lines():
    values = rows(0, 1, 3, 3)
    with pytest.raises(DataError) as caught:
        LabelMap.of_names(("neg", "pos"), values).encode(values, "label")
    (problem,) = caught.value.problems
    assert problem.what == "label '3' is not one of the 2 labels (lines 4, 5)"
    assert (problem.where, problem.valid) == ("a.csv:4", "0 (neg), 1 (pos)")


def test_missing_labels_are_told():
    with pytest.raises(DataError, match=r"a.csv:3: 2 rows have no label in column 'label' \(lines 3, 4\)"):
        LabelMap.of_names(("a", "b"), rows("a", "b")).encode(rows("a", None, float("nan")), "label")
    with pytest.raises(DataError, match=r"1 row has no label in column 'label' \(line 3\)"):
        numbers(1.5, "")


@pytest.mark.parametrize("value", ["warm", "inf", [1], 1e39, 10**400])
def test_a_regression_label_must_be_a_finite_number(value):
    with pytest.raises(DataError, match=r"a.csv:3: label .* is not a number"):
        numbers("1.5", value)
    assert numbers("1.5", 2, -0.125) == [1.5, 2.0, -0.125]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((0.5, 1.25), "task.regression=true"),
        (("a", "a"), "all labels in column 'label' are the same"),
        ((None, ""), "has no labels"),
        (tuple(range(200)), "200 different labels in 200 rows"),
    ],
)
def test_what_cannot_be_classes_is_told(values, says):
    with pytest.raises(DataError) as caught:
        LabelMap.found_in(rows(*values), "label")
    assert says in str(caught.value)
    assert caught.value.problems[0].key == "task.label"


@pytest.mark.parametrize("regression", [False, True])
def test_a_split_without_labels_is_recognised(regression):
    more = {"label_optional": True, "regression": regression}
    names = None if regression else LabelMap.of_names(("a", "b"), rows("a", "b"))
    assert unlabelled(gather([Table("a", {"text": ["t"]}, [1])], Columns(("text",), "label", **more)), names)
    assert unlabelled(rows(-1, -1.0, "-1", **more), names)
    assert unlabelled(rows(None, "", **more), names)
    assert not unlabelled(rows(-1, 0, **more), names)
    assert not unlabelled(rows(-1, -1), LabelMap.of_names(("-1", "1"), rows(-1, 1)))


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"a"])
def test_a_label_is_a_plain_value(value):
    with pytest.raises(DataError, match=r"a.csv:3: column 'label' holds a \w+ where a label is needed"):
        rows("a", value)


def test_a_column_of_ever_new_values_is_no_label():
    with pytest.raises(DataError, match="more than 100,000 different labels"):
        rows(*range(100_001))
