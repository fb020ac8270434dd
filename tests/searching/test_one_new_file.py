"""A proxy, or an allocator, is one new file: nothing else is edited before recipes, `lorakit list`, `show`, `plan` and `train` know it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.models import TinyModels
from support.runs import Bench

import lorakit
from lorakit.artifacts.run import Run
from lorakit.cli.app import main
from lorakit.errors import RecipeError
from lorakit.registry import find_registry

PROXY = '''"""Height: how far up in the network a site lies.

No gradient is looked at.
"""

from lorakit.adapters.options import Option
from lorakit.searching.proxy import Probe, Proxy, Scores, proxies


def height(probe: Probe) -> Scores:
    """Site -> its layer, or minus that."""
    sign = 1 if probe.settings["best"] == "top" else -1
    return {site.name: float(sign * site.layer) for site in probe.adapted.sites}


proxies.register(
    Proxy(
        name="height",
        summary="the site's layer",
        source="a test",
        at_zero="does not look at B",
        score=height,
        work=lambda cost_model: 0.0,
        options={"best": Option("top", "which end is the better one", choices=("top", "bottom"))},
    ),
)
'''
ALLOCATOR = '''"""Take turns: at every tick other sites are on, in the order of the model.

No score is looked at.
"""

from typing import ClassVar

from lorakit.adapters.options import Option
from lorakit.searching.allocator import Allocator, Decision, allocators


class TakeTurns(Allocator):
    """Every nth site is on."""

    name = "take_turns"
    summary = "other sites at every tick"
    source = "a test"
    options: ClassVar = {"groups": Option(4, "of sites, one of which is on", low=2)}
    default_share = 0.5

    def decide(self, step: int) -> Decision:
        """The next group."""
        groups = self.settings["groups"]
        sites = self.context.adapted.sites
        self.context.adapted.switch([site.name for site in sites[self.ticks_done % groups :: groups]])
        return Decision()


allocators.register(TakeTurns)
'''


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny: TinyModels) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), tiny)


@pytest.fixture
def two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file more in ``searching/proxies`` and in ``searching/allocators``, for the length of a test."""
    for package, name, text in (("proxies", "height", PROXY), ("allocators", "take_turns", ALLOCATOR)):
        (tmp_path / package).mkdir()
        (tmp_path / package / f"{name}.py").write_text(text)
        home = importlib.import_module(f"lorakit.searching.{package}")
        registry = find_registry(package)
        monkeypatch.setattr(registry, "_entries", dict(registry.items()))
        monkeypatch.setattr(registry, "_discovered", False)
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(tmp_path / package)])
    yield
    for module in ("lorakit.searching.proxies.height", "lorakit.searching.allocators.take_turns"):
        sys.modules.pop(module, None)


HEIGHT = ("search.method=heterolora", "search.proxy=height", "adapter.targets=[q,v]", "search.enable=0.5")
TURNS = ("search.method=take_turns", "adapter.targets=[q,v]", "search.every=0.5")


@pytest.mark.parametrize(("options", "layer"), [((), 1), (("search.proxy_options={best: bottom}",), 0)])
def test_the_proxy_scores_a_training(bench: Bench, two_files: None, options: tuple[str, ...], layer: int) -> None:
    run = Run(bench.train(*HEIGHT, *options, "training.max_steps=2").run_dir)
    (tick,) = run.timeline()
    assert tick["proxy"] == "height"
    assert len(tick["on"]) == 2
    assert all(f".{layer}." in name for name in tick["on"])  # the two of the one layer, of four in two layers


@pytest.mark.parametrize(("options", "groups"), [((), 4), (("search.options={groups: 2}",), 2)])
def test_the_allocator_acts_in_a_training(bench: Bench, two_files: None, options: tuple[str, ...], groups: int) -> None:
    run = Run(bench.train(*TURNS, *options).run_dir)
    ticks = run.timeline()
    sites = list(ticks[0]["ranks"])
    assert len(ticks) > 2
    for number, tick in enumerate(ticks):
        assert tick["on"] == sites[number % groups :: groups]


def test_both_are_planned_and_searched_with(bench: Bench, two_files: None) -> None:
    assert lorakit.plan(bench.load(*HEIGHT)).search_overhead == 0
    assert lorakit.plan(bench.load(*TURNS)).ticks
    found = lorakit.search(bench.load(*HEIGHT))
    assert (found.proxy, found.note) == ("height", "where B = 0: does not look at B")


def test_a_recipe_is_told_what_they_have(bench: Bench, two_files: None) -> None:
    wrong = ("search.options={group: 2}", "search.proxy_options={best: middle}")
    with pytest.raises(RecipeError) as told:
        bench.load(*TURNS, *wrong, "search.proxy=height")
    allocator, proxy = told.value.problems
    assert (allocator.what, allocator.hint) == (
        "allocator 'take_turns' has no option 'group'",
        "did you mean 'groups'?",
    )
    assert (proxy.what, proxy.valid) == ("best: middle cannot be used here", "top, bottom")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def test_both_are_listed_and_shown(bench: Bench, two_files: None, capsys: pytest.CaptureFixture[str]) -> None:
    def listed(kind: str) -> dict[str, Any]:
        return {row["name"]: row for row in json.loads(printed(capsys, "list", kind, "--json"))[kind]}

    assert listed("proxies")["height"]["options"] == "best=top"
    assert listed("methods")["take_turns"]["what"] == "other sites at every tick"
    card = printed(capsys, "show", "height")
    assert card.startswith("height (proxy)\n\nHeight: how far up in the network a site lies.")
    assert "search.proxy_options:\n    best = top: which end is the better one" in card
    card = printed(capsys, "show", "take_turns")
    assert card.startswith("take_turns (allocator)\n\nTake turns: ")
    assert "search.options:\n    groups = 4: of sites, one of which is on" in card


def test_a_recipe_with_their_options_is_shown_with_what_they_mean(
    bench: Bench, two_files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bench.load().path
    given = ("search.options={groups: 2}", "search.proxy=height", "search.proxy_options={best: bottom}")
    lines = [line.split("#") for line in printed(capsys, "show", str(path), *TURNS, *given).splitlines() if "#" in line]
    told = {written.strip(): doc.strip() for written, doc in lines}
    assert told["groups: '2'"] == "of sites, one of which is on"
    assert told["best: bottom"] == "which end is the better one"
