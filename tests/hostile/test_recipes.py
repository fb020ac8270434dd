"""A recipe, whatever is in it, is either right, and then written so that it reads the same, or refused in one error."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import strategies as st
from support.hostile.effort import efforts, try_all
from support.hostile.made_up_recipes import overrides, texts

from lorakit.errors import RecipeError
from lorakit.recipe.keys import recipe_keys
from lorakit.recipe.load import load_recipe

PLACE = re.compile(r"[^\n]+:\d+|command line|[^\n:]+\.yaml")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_told(error: RecipeError) -> None:
    """Every mistake has its place, and nothing in the message moves a terminal's cursor."""
    assert error.problems
    for problem in error.problems:
        assert problem.what
        assert PLACE.fullmatch(problem.where), problem
    told = str(error)
    told.encode("utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told), told


def check(text: bytes, given: list[str]) -> bool:
    """Whether it is a recipe."""
    Path("recipe.yaml").write_bytes(text)
    try:
        loaded = load_recipe("recipe.yaml", given)
    except RecipeError as error:
        check_told(error)
        return False
    again = loaded.to_yaml()
    keys = [line for line in again.splitlines() if re.match(r"  ['\w]", line)]
    assert len(keys) == len(recipe_keys())
    Path("again.yaml").write_text(again, encoding="utf-8")
    assert load_recipe("again.yaml").recipe == loaded.recipe
    return True


@efforts(few=90)
def test_any_text(effort, here):
    try_all(effort, st.tuples(texts, st.just([]) | overrides), lambda made: check(*made))


@efforts(few=60)
def test_any_override(effort, here):
    good = b"model: {name: bundled:minilm}\ntask: {name: mrpc}\nsearch: {method: heterolora}\n"
    try_all(effort, overrides, lambda made: check(good, made))


GOOD = "model: {name: bundled:minilm}\ntask: {name: mrpc}\n"


def problems_of(text: str, *given: str) -> str:
    Path("recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml", given)
    return str(caught.value)


def test_a_recipe_does_not_read_the_environment(here, monkeypatch):
    monkeypatch.setenv("SECRET", "xyzzy")
    for value in ("${oc.env:SECRET}", "a ${oc.env:SECRET} b", "${oc.decode:${oc.env:SECRET}}", "\\${oc.env:SECRET}"):
        told = problems_of(GOOD + f"run: {{folder: '{value}'}}\n")
        assert "not filled in" in told
        assert "xyzzy" not in told
        assert "not filled in" in problems_of(GOOD, f"run.folder='{value}'")
    Path("recipe.yaml").write_text(GOOD + "adapter: {options: {'${oc.env:SECRET}': $SECRET}}\nsearch: {method: none}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yaml")
    assert "xyzzy" not in str(caught.value)


def test_aliases_are_not_unrolled(here):
    """Ten lines that stand for 10^9 words."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    started = time.process_time()
    told = problems_of(GOOD + "\n".join(lines) + "\nadapter: {targets: *i}\n")
    assert "wants text, not a list" in told
    assert time.process_time() - started < 5


def test_a_flood_of_mistakes_is_cut_off(here):
    started = time.process_time()
    told = problems_of(GOOD + "".join(f"k{number}: 1\n" for number in range(5_000)))
    assert "there are more mistakes than these 50" in told
    assert told.count("there is no section") == 50
    assert time.process_time() - started < 10


def test_what_never_ends_is_no_recipe(here):
    if not Path("/dev/zero").exists():
        pytest.skip("there is no /dev/zero")
    with pytest.raises(RecipeError, match="larger than"):
        load_recipe("/dev/zero")


@pytest.mark.parametrize(
    "base", ["recipe.yaml", "./recipe", "other.yaml", "/dev/zero", "..", "/", "'a\\0b'", f"'{'x' * 5000}'"]
)
def test_extending_odd_places(here, base):
    Path("other.yaml").write_text("extends: recipe.yaml\n")
    told = problems_of(f"extends: {base}\n{GOOD}")
    assert "extends" in told
