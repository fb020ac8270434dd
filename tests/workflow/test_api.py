"""The Python API is even: every public function takes the same things, says the same things, and is listed by ``help(lorakit)``."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import inspect
import io
import json
import pydoc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from unittest import mock

import pytest
from support.runs import Bench

import lorakit
from lorakit.errors import LorakitError
from lorakit.recipe.load import LoadedRecipe
from lorakit.result import Result
from lorakit.workflow import train as running
from lorakit.workflow.train import TrainResult

CLASSES = ["Search"]
FUNCTIONS = [name for name in lorakit.__all__ if name not in ("LorakitError", *CLASSES)]
OF_A_RECIPE = ("compare", "evolve", "load_recipe", "plan", "plan_sweep", "search", "submit_sweep", "sweep", "train")
OF_A_RUN = (
    "card",
    "combine",
    "compress",
    "doctor",
    "evaluate",
    "export",
    "export_onnx",
    "load",
    "merge",
    "predict",
    "push",
    "quantize",
    "report",
)
TELLS_ARGUMENTS = {
    "plan_sweep": "sweep",
    "submit_sweep": "sweep",
    "submit_compare": "compare",
}  # whose arguments they are
SECTIONS = ("Args", "Returns", "Raises", "Example")


def public(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(lorakit, name)
    return function


def section(name: str, title: str) -> str:
    """The text of one section of a public function's docstring; empty where there is none."""
    found = re.search(rf"^{title}:\n((?:(?: .*)?\n)*)", (inspect.getdoc(public(name)) or "") + "\n", re.MULTILINE)
    return inspect.cleandoc(found[1]) if found else ""


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_a_docstring_says_everything(name: str) -> None:
    doc = inspect.getdoc(public(name)) or ""
    assert doc.partition("\n")[0].endswith((".", "?"))
    assert all(section(name, title) for title in SECTIONS)
    told = set(re.findall(r"^(\w+): ", section(TELLS_ARGUMENTS.get(name, name), "Args"), re.MULTILINE))
    assert told == set(inspect.signature(public(name)).parameters)
    raised = re.findall(r"^(\w+): ", section(name, "Raises"), re.MULTILINE)
    assert raised
    for each in raised:
        assert issubclass(getattr(__import__("lorakit.errors", fromlist=[each]), each), LorakitError)
    examples = doctest.DocTestParser().get_examples(section(name, "Example"))
    assert any(f"lorakit.{name}(" in example.source for example in examples)
    for example in examples:
        ast.parse(example.source)


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_a_signature_says_what_is_taken(name: str) -> None:
    signature = inspect.signature(public(name))
    assert all(parameter.annotation is not parameter.empty for parameter in signature.parameters.values())
    taken = {key: str(parameter.annotation) for key, parameter in signature.parameters.items()}
    first = next(iter(taken))
    if name in OF_A_RECIPE:
        assert taken[first] in ("AnyRecipe", "Sequence[AnyRecipe]")
        assert taken["overrides"] == "Sequence[str]"
    if name in OF_A_RUN:
        assert "str | Path" in taken[first]
    for key, annotation in taken.items():  # a place is text as well as a Path
        assert "Path" not in annotation.replace("str | Path", ""), key


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_result_is_a_dataclass_that_tells_its_fields(name: str) -> None:
    returned = get_type_hints(inspect.unwrap(public(name)))["return"]
    kind = get_args(returned)[0] if get_origin(returned) is list else returned
    if name in ("adapt", "attach_saved", "load", "open_adapters"):
        assert inspect.getdoc(kind)
        return
    told = inspect.getdoc(kind) or ""
    for field in dataclasses.fields(kind):
        assert re.search(rf"\b{field.name}: ", told), f"{kind.__name__}.{field.name}"
    assert issubclass(kind, Result) or kind is LoadedRecipe


def test_help_lists_every_name() -> None:
    """In its first lines as in its list of functions."""
    text = io.StringIO()
    pydoc.Helper(output=text)(lorakit)
    listed = re.sub(r".\x08", "", text.getvalue())  # without bold print
    told, _, functions = listed.partition("\nFUNCTIONS\n")
    for name in FUNCTIONS:
        assert re.search(rf"^ {{8}}(\w+, )?{name}\b", told, re.MULTILINE), name
        assert re.search(rf"^ {{4}}{name}\(", functions, re.MULTILINE), name
    assert all(name in told for name in ("LorakitError", *CLASSES))


# -- what they take ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ways(bench: Bench, finished: TrainResult) -> dict[str, str | Path | LoadedRecipe]:
    """One recipe, named in every way."""
    loaded = bench.load(name="finished")
    return {"loaded": loaded, "file": str(loaded.path), "path": loaded.path, "run": finished.run_dir}


def plain(result: Any) -> str:
    """A result as JSON, without its places and times."""
    told = result.to_dict()
    assert told.keys() == {field.name for field in dataclasses.fields(result)}
    return re.sub(r'"(seconds|emitted)": [^,}]+', "", json.dumps(told))


def test_a_recipe_is_taken_in_every_way(ways: dict[str, Any], tmp_path: Path) -> None:
    settings = ["search.enable=0.5", "adapter.rank=2"]
    plans = {plain(lorakit.plan(way, ["adapter.rank=2"])) for way in ways.values()}
    assert len(plans) == 1
    emitted = [tmp_path / f"{name}.yaml" for name in ways]
    searches = {
        plain(lorakit.search(way, settings, emit=str(path))) for way, path in zip(ways.values(), emitted, strict=True)
    }
    assert len(searches) == 1
    assert len({path.read_text().partition("\n")[2] for path in emitted}) == 1
    assert (
        len({plain(lorakit.plan_sweep(way, ["adapter.rank=2,4"])).partition("points")[2] for way in ways.values()}) == 1
    )


def test_a_training_takes_a_file_and_overrides(ways: dict[str, Any], finished: TrainResult, tmp_path: Path) -> None:
    with mock.patch.object(running, "draw"):
        result = lorakit.train(ways["file"], ["run.seed=1"], run_dir=str(tmp_path / "run"))
    assert (result.run_dir, result.seed) == (tmp_path / "run", 1)
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == result.to_dict()
    with pytest.raises(LorakitError, match="exists already"):
        lorakit.train(finished.run_dir)  # its own folder is where it would be trained
    with pytest.raises(LorakitError, match="trained to its end already"):
        lorakit.train(str(finished.run_dir), resume=True)


def test_a_run_is_taken_as_text(finished: TrainResult, copied: Path, tmp_path: Path) -> None:
    run = str(finished.run_dir)
    assert lorakit.evaluate(run).scores == finished.last
    assert lorakit.load(run).predict(["a film"]) == lorakit.predict(run, ["a film"])
    assert lorakit.merge(run, out=str(tmp_path / "merged")).out == tmp_path / "merged"
    exported = lorakit.export(run, out=str(tmp_path / "exported"))
    assert (exported.out, exported.flips) == (tmp_path / "exported", 0)
    imported = lorakit.import_adapter(
        str(exported.out), settings_of(finished), task="custom", out=str(tmp_path / "imported")
    )
    assert lorakit.evaluate(str(imported.out)).scores == finished.last
    both = lorakit.combine([run, finished.run_dir], out=str(tmp_path / "both"))
    assert both.out == tmp_path / "both"
    assert lorakit.report(str(copied)).run == copied
    assert lorakit.doctor(run, quick=True).checks
    compared = lorakit.compare([run], folder=str(tmp_path / "compared"))
    for result in (exported, imported, both, compared, lorakit.report(copied), lorakit.describe("lora")):
        json.dumps(result.to_dict())


def settings_of(run: TrainResult) -> list[str]:
    """The task of a run as overrides."""
    task = lorakit.load_recipe(run.run_dir).recipe.task
    model = lorakit.load_recipe(run.run_dir).recipe.model.name
    named = {key: getattr(task, key) for key in ("train", "validation", "test", "text", "label", "max_length")}
    return [f"model.name={model}", *(f"task.{key}={value}" for key, value in named.items())]
