"""lorakit: fine-tuning on a small parameter budget, from a YAML recipe.

>>> import lorakit
>>> classifier = lorakit.load("runs/demo-0")              # doctest: +SKIP
>>> classifier.predict(["a film of quiet wonders"])       # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorakit.errors import LorakitError

if TYPE_CHECKING:
    from lorakit.recipe.load import load_recipe
    from lorakit.workflow import (
        combine,
        compare,
        evaluate,
        export,
        import_adapter,
        load,
        merge,
        plan,
        predict,
        report,
        sweep,
        train,
    )

__all__ = [
    "LorakitError",
    "combine",
    "compare",
    "evaluate",
    "export",
    "import_adapter",
    "load",
    "load_recipe",
    "merge",
    "plan",
    "predict",
    "report",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """The public functions, imported at first use: ``import lorakit`` itself stays quick."""
    if name == "load_recipe":
        from lorakit.recipe.load import load_recipe

        return load_recipe
    if name in __all__:
        from lorakit import workflow

        return getattr(workflow, name)
    raise AttributeError(f"module 'lorakit' has no attribute '{name}'")
