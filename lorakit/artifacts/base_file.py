"""The quantised weights that a run chose (``Init.quantises``, mixed precisions), kept as they are.

base/quantised.safetensors    of every such site what its QuantisedLinear holds, SITE.BUFFER
base/sums.json                its sha256

They are the base model's weights rounded without what A and B hold, so no file of the model has them. To derive them again from the
start's factors would take the same library, kernels and SVD to the last bit. Where matrices are kept in different precisions
(``model.quantization: mixed``) all of them are here, whatever the start: which is in how many bits would take the same solver, and the
gradients it went by. They are written once, before the first step: in nf4 4.5
bits a number of an adapted weight, 4.13 with double quantisation. lorakit.json of every adapter says the digest (``base``), so that none
gets onto other weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import read_tensors, save_tensors
from lorakit.artifacts.files import folder, read_json, write_json
from lorakit.artifacts.run import Run
from lorakit.backbone.few_bits import Precision, precision_of
from lorakit.backbone.quantised import MIXED
from lorakit.errors import RunError
from lorakit.recipe.schema import Recipe
from lorakit.tasks.cache import sha256_of

FILE, SUMS = "quantised.safetensors", "sums.json"


def write_base(adapted: AdaptedModel, run: Run) -> None:
    """Write them into the run's folder, whole or not at all, where there are any."""
    if held := adapted.own_base():
        with folder(run.base) as target:
            save_tensors(held, target / FILE)
            write_json(target / SUMS, {FILE: sha256_of(target / FILE)})


def kept_precisions(run: Run, recipe: Recipe) -> dict[str, Precision]:
    """Site -> precision of the mixed matrices that ``load_base`` puts into a model; of other models none."""
    if recipe.model.quantization != MIXED:
        return {}
    codes = {name: each for name, each in kept_weights(run).items() if name.endswith(".codes")}
    return {name.removesuffix(".codes"): precision_of(each) for name, each in codes.items() if each.dim() == 4}


def kept_weights(run: Run) -> dict[str, torch.Tensor]:
    """What is in the file. RunError where it is missing or damaged."""
    if not (run.base / FILE).is_file():
        what = (
            f"{FILE} is missing: the quantised weights that the run chose, which cannot be found again from the model"
        )
        raise RunError(what, where=str(run.base), hint="a copy of the run, whole")
    return read_tensors(run.base / FILE)


@torch.no_grad()
def load_base(adapted: AdaptedModel, run: Run) -> None:
    """Put those of the run into a model built from its recipe. RunError where they are missing, damaged or others."""
    held = adapted.own_base()
    if not held:
        return
    path, found = run.base / FILE, kept_weights(run)
    if read_json(run.base / SUMS) != {FILE: sha256_of(path)}:
        what = "the quantised weights are not those that were written"
        raise RunError(what, where=str(path), hint="a copy of the run")
    for name in sorted(held.keys() | found.keys()):
        if kind_of(held, name) != kind_of(found, name):
            what = f"tensor {name} is {kind_of(found, name)}, and this model's {kind_of(held, name)}"
            raise RunError(what, where=str(path))
    for name, buffer in held.items():
        buffer.copy_(found[name])
    for adapter in adapted.adapters.values():
        adapter.measure_base()


def kind_of(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    """Its shape and dtype, in words."""
    return f"{tensors[name].dtype} {[*tensors[name].shape]}" if name in tensors else "missing"
