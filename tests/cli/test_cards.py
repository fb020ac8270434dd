"""Cards: each says in a line of its own how its entry stands to its authors' code, in words that are the same everywhere."""

from __future__ import annotations

import re

import pytest

from lorakit.cli.show import card
from lorakit.registry import find_registry
from lorakit.workflow.describe import header

WITH_PAPERS = ("methods", "allocators", "updates", "optimizers", "combinations", "inits")
STANDING = re.compile(
    r"^(Checked against (the authors'|PEFT's) code\."
    r"|Differs from (the authors'|PEFT's) code in: \S"
    r"|Not checked against the authors' code, which was not (reached|read): "
    r"follows (section \d+(\.\d+)*|the method section) of the paper\.)",
    re.MULTILINE,
)
LIKE_IT = re.compile(
    r"(not )?checked against|(differs|differences) from (the authors|peft)|deliberate differences", re.IGNORECASE
)
OURS = ("lorakit", "after ")
"""How the source of an entry begins that no paper describes."""
CARDS = {
    (kind, name): header(find_registry(kind), name) if kind == "methods" else card(find_registry(kind), name)
    for kind in WITH_PAPERS
    for name, entry in find_registry(kind).items()
    if entry.source and not entry.source.startswith(OURS)
}


def not_reached() -> set[str]:
    """The names of those whose authors' code was not reached."""
    return {name for (_, name), text in CARDS.items() if "which was not reached" in text}


@pytest.mark.parametrize(("kind", "name"), CARDS)
def test_it_says_how_it_stands_to_the_authors_code(kind: str, name: str) -> None:
    told, _, use = CARDS[kind, name].partition("When to use it: ")
    assert STANDING.search(told)
    assert not LIKE_IT.search(STANDING.sub("", told) + use)


def test_what_was_not_reached_is_not_said_to_be_checked() -> None:
    assert not_reached() == {
        "alora",
        "prilora",
        "lora_drop",
        "hidden_key",
        "tied_lora",
        "roselora",
        "rose",
        "bilora",
        "delta_lora",
        "cola",
        "xgblora",
        "am_lora",
    }
    for (_, name), text in CARDS.items():
        if name in not_reached():
            assert len(STANDING.findall(text)) == 1, text
