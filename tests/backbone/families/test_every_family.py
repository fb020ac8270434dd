"""The contract, for every architecture that transformers can classify sequences with (``support.family_contract``).

A tiny model of each is loaded, compared with plain transformers, adapted everywhere and trained for two steps; every fact that the
table in the backbone's README tells is found out again. The default run takes one family of each kind that the table knows, and every
twenty-fourth of the others.
"""

import json

import pytest
import transformers
from support.every_family import EVERY_FAMILY
from support.family_contract import TABLE, attempt, facts, merges_and_exports, shortly
from support.thinned import as_parameter

from lorakit.errors import RecipeError

WRITTEN = json.loads(TABLE.read_text(encoding="utf-8"))
EXPECTED = {name: row for name, row in WRITTEN["families"].items() if name in EVERY_FAMILY}
TRAINED = [name for name, row in EXPECTED.items() if row["trains"] == "yes"]
ALWAYS = ("bert", "bart", "mixtral", "xlnet", "zamba")  # an encoder, two stacks, experts, left padding, shared weights
KINDS = {
    tuple(EXPECTED[name].values()): name for name in reversed(TRAINED)
}  # what the table tells -> the first it tells it of
TYPICAL = {*ALWAYS, *KINDS.values(), *TRAINED[::24]}


def those_in(default):
    """Every family that trains; those that are not in ``default`` are slow."""
    return [as_parameter(name, slow=name not in default) for name in TRAINED]


def test_no_family_is_missing():
    if transformers.__version__ != WRITTEN["transformers"]:
        pytest.skip(f"the table is of transformers {WRITTEN['transformers']}")
    assert list(EVERY_FAMILY) == list(EXPECTED)


@pytest.mark.parametrize("family", those_in(TYPICAL))
def test_it_trains_and_a_label_is_its_texts_own(family, tmp_path):
    assert facts(attempt(family, tmp_path)) == EXPECTED[family]["notes"]


@pytest.mark.parametrize("family", [name for name in EXPECTED if name not in TRAINED])
def test_it_is_refused_with_the_reason(family, tmp_path):
    with pytest.raises(RecipeError) as caught:
        attempt(family, tmp_path)
    assert f"no: {shortly(caught.value)}" == EXPECTED[family]["trains"]
    assert caught.value.problems[0].key == "model.name"


@pytest.mark.parametrize("family", those_in(ALWAYS))
def test_it_merges_and_exports_or_says_why_not(family, tmp_path):
    found = merges_and_exports(attempt(family, tmp_path))
    assert found == (EXPECTED[family]["merges"], EXPECTED[family]["exports"])
