import pytest

from lorakit.errors import DataError
from lorakit.tasks.labels import LabelMap, encode_numbers, unlabelled
from lorakit.tasks.readers import Table


def table(*labels):
    return Table("a.csv", {"label": list(labels)}, range(2, len(labels) + 2))


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
    ],
)
def test_names_are_found_in_the_data(values, names, ids):
    found = LabelMap.found_in(table(*values), "label")
    assert found.names == names
    assert found.encode(table(*values), "label") == ids


@pytest.mark.parametrize(
    ("names", "values", "ids"),
    [
        (("neg", "pos"), ("pos", "neg"), [1, 0]),
        (("neg", "pos"), ("1", "0"), [1, 0]),
        (("neg", "pos"), (1, 0), [1, 0]),
        (("1", "0"), ("1", "0"), [0, 1]),
        (("1", "2"), (2, 1), [1, 0]),
    ],
)
def test_given_names_are_matched_by_name_or_by_id(names, values, ids):
    assert LabelMap.of_names(names, values).encode(table(*values), "label") == ids


def test_a_label_out_of_range_is_told_with_its_lines():
    values = table(0, 1, 3, 3)
    with pytest.raises(DataError) as caught:
        LabelMap.of_names(("neg", "pos"), values.column("label")).encode(values, "label")
    (problem,) = caught.value.problems
    assert problem.what == "label '3' is not one of the 2 labels (lines 4, 5)"
    assert (problem.where, problem.valid) == ("a.csv:4", "0 (neg), 1 (pos)")


def test_missing_labels_are_told():
    with pytest.raises(DataError, match=r"a.csv:3: 2 rows have no label in column 'label' \(lines 3, 4\)"):
        LabelMap.of_names(("a", "b"), ["a", "b"]).encode(table("a", None, float("nan")), "label")
    with pytest.raises(DataError, match=r"1 row has no label in column 'label' \(line 3\)"):
        encode_numbers(table(1.5, ""), "label")


@pytest.mark.parametrize("value", ["warm", "inf", [1]])
def test_a_regression_label_must_be_a_finite_number(value):
    with pytest.raises(DataError, match=r"a.csv:3: label .* is not a number"):
        encode_numbers(table("1.5", value), "label")
    assert encode_numbers(table("1.5", 2, -1e-3), "label") == [1.5, 2.0, -0.001]


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
        LabelMap.found_in(table(*values), "label")
    assert says in str(caught.value)
    assert caught.value.problems[0].key == "task.label"


def test_a_split_without_labels_is_recognised():
    assert unlabelled(Table("a", {}, []), "label", None)
    assert unlabelled(table(-1, -1.0, "-1"), "label", None)
    assert unlabelled(table(None, ""), "label", None)
    assert not unlabelled(table(-1, 0), "label", None)
    assert not unlabelled(table(-1, -1), "label", LabelMap.of_names(("-1", "1"), [-1, 1]))
