"""What varies, read from KEY=VALUE,VALUE, and what the points are called."""

import re

import pytest

from lorakit.errors import UsageError
from lorakit.recipe.load import load_recipe
from lorakit.workflow.experiments.grid import Range, mark, read_space, short_names, split_values


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("1e-4,3e-4", ["1e-4", "3e-4"]),
        ("4", ["4"]),
        ("", [""]),
        (" a , b ", ["a", "b"]),
        ("[q,v]", ["[q,v]"]),
        ("[q,v],[q,k,v]", ["[q,v]", "[q,k,v]"]),
        ("{a: 1, b: 2},{a: 3}", ["{a: 1, b: 2}", "{a: 3}"]),
        ("[{a: [1,2]},3],4", ["[{a: [1,2]},3]", "4"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("'it''s, b',c", ["'it''s, b'", "c"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        ("['a]',b],c", ["['a]',b]", "c"]),
        ("it's,b's", ["it's", "b's"]),  # a quote inside a word is an apostrophe, as in YAML
        ("[q,v", ["[q,v"]),
        ("a,,b", ["a", "", "b"]),
    ],
)
def test_values_are_split_at_their_own_commas_alone(text, pieces):
    assert split_values(text) == pieces


def test_the_grid_is_the_product_and_one_value_is_fixed():
    space = read_space(["training.lr=1e-4,0.001", "training.epochs=1", "adapter.targets=[q,v],[q]", "adapter.rank=4,8"])
    assert space.fixed == ["training.epochs=1"]
    points = space.points()
    expected = [(lr, targets, rank) for lr in (1e-4, 1e-3) for targets in (["q", "v"], ["q"]) for rank in (4, 8)]
    assert [tuple(point.values.values()) for point in points] == expected
    assert points[0].overrides == ["training.lr=1e-4", "adapter.targets=[q,v]", "adapter.rank=4"]
    names = [point.named("demo") for point in points]
    assert names[:2] == ["demo-lr0.0001-targetsq+v-rank4", "demo-lr0.0001-targetsq+v-rank8"]
    assert len(set(names)) == 8


def test_without_anything_that_varies_there_is_one_point():
    (point,) = read_space(["adapter.rank=4"]).points()
    assert (point.overrides, point.named("demo")) == ([], "demo")


def test_values_of_a_point_are_those_of_its_recipe():
    space = read_space(["training.head_lr=null,1e-3", "run.offline=true,no"])
    for point in space.points():
        recipe = load_recipe("demo", point.overrides).recipe
        for key, value in point.values.items():
            section, name = key.split(".")
            assert getattr(getattr(recipe, section), name) == value


def test_ranges():
    space = read_space(["training.lr=1e-5..1e-3", "adapter.rank=2..8", "training.warmup=0..0.5"])
    rate, rank, warmup = space.ranges
    assert (rate, rate.log) == (Range("training.lr", 1e-5, 1e-3, False), True)
    assert (rank, rank.log, type(rank.low)) == (Range("adapter.rank", 2, 8, True), False, int)
    assert not warmup.log  # from 0
    assert Range("k", 1, 10, True).log
    assert not Range("k", 1, 9.9, False).log
    assert rate.rounded(0.000123456) == 0.0001235
    assert Range("k", 0.12344, 1, False).rounded(0.12344) == 0.12344  # 0.1234 would be below
    assert [
        point.overrides for point in read_space(["adapter.rank=2..8", "adapter.method=lora,dora,pissa"]).corners()
    ] == [
        ["adapter.method=lora", "adapter.rank=2"],
        ["adapter.method=dora", "adapter.rank=8"],
        ["adapter.method=pissa", "adapter.rank=2"],
    ]


def test_two_dots_in_text_are_no_range():
    assert read_space(["model.name=../a..b", "adapter.targets=1..2", "task.label=1..2"]).ranges == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("adapter.rank=4,", "empty value"),
        ("training.lr=1e-4,0.0001", "the value 0.0001 is given twice"),
        ("adapter={rank: 4},{rank: 8}", "a section cannot vary"),
        ("training.lr=1e-3..1e-5", r"1e-3\.\.1e-5 is not a range upwards"),
        ("training.lr=1e-3..1e-3", r"1e-3\.\.1e-3 is not a range upwards"),
        ("adapter.rank=1.5..4", "whole numbers at both ends"),
    ],
)
def test_what_cannot_vary_is_told(override, message):
    with pytest.raises(UsageError, match=message):
        read_space([override])


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        read_space(["adapter.rank=4,", "adapter.rank=8", "training.lr=1,1"])
    assert [problem.key for problem in caught.value.problems] == ["adapter.rank", "adapter.rank", "training.lr"]


def test_names_are_folders_and_tell_values_apart():
    assert short_names(["search.every", "evaluation.every", "adapter.rank"]) == {
        "search.every": "search.every",
        "evaluation.every": "evaluation.every",
        "adapter.rank": "rank",
    }
    values = ["a/b", "a-b", "a b", "a\\b", "x" * 50, "x" * 51, True, None, 1e-05, 4, ["q", "v"], ["q+v "], {"a": 1}, []]
    marks = [mark(value) for value in values]
    assert len(set(marks)) == len(values)
    assert all(re.fullmatch(r"[^/\\\x00-\x1f]*", text) and len(text) < 60 for text in marks)
    assert marks[6:11] == ["true", "null", "1e-05", "4", "q+v"]
