"""No import circles: every module can be the first that is imported."""

from __future__ import annotations

import ast
import gc
import importlib
import multiprocessing
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lorakit

ROOT = Path(lorakit.__file__).parent
RUNS_THE_COMMAND = "lorakit.__main__"


def modules() -> list[str]:
    """Every module and package."""
    found = [module.name for module in pkgutil.walk_packages(lorakit.__path__, "lorakit.")]
    assert len(found) > 100
    return found


def imported(statements: list[ast.stmt]) -> Iterator[str]:
    """What may be a module among the names that are imported while these statements run, functions and type checking left out."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, "imports are absolute"
            yield statement.module or ""
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from imported(statement.orelse)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [part for part in ast.iter_child_nodes(statement) if isinstance(part, ast.stmt | ast.ExceptHandler)]
            yield from imported(inner)  # type: ignore[arg-type]


def test_imports_run_in_no_circle() -> None:
    known, graph = set(modules()), {}
    for name in known:
        path = ROOT.parent / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        found = set(imported(ast.parse(path.read_text(encoding="utf-8")).body))
        graph[name] = (found & known) - {name}
    assert set(TopologicalSorter(graph).static_order()) == known  # a CycleError names the circle


def failure(module: str) -> str:
    """In a process of its own: what goes wrong where ``module`` is the first of ours to be imported; empty where nothing does."""
    gc.disable()
    for name in [name for name in sys.modules if name.partition(".")[0] == "lorakit"]:
        del sys.modules[name]
    try:
        importlib.import_module(module)
    except Exception:
        return f"{module}:\n{traceback.format_exc(limit=-3)}"
    return ""


@pytest.mark.slow
def test_every_module_can_be_imported_alone() -> None:
    names = [name for name in modules() if name != RUNS_THE_COMMAND]
    for name in names:
        importlib.import_module(name)  # other people's packages are here then, and need not be imported over and over
    gc.freeze()
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        failures = pool.map(failure, names, chunksize=1)
    gc.unfreeze()
    assert not any(failures), "\n".join(filter(None, failures))
