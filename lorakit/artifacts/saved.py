"""Proof that what was trained is what lies on disk: a saved adapter is read back and compared, number for number."""

from __future__ import annotations

from pathlib import Path

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import OURS, file_names, packed_state, read_tensors
from lorakit.artifacts.files import read_json
from lorakit.errors import RunError


def check_saved(adapted: AdaptedModel, path: Path) -> None:
    """RunError unless the adapter in the folder ``path`` has every tensor of ``adapted``, the head's too, its ranks and parameters."""
    state, missing = packed_state(adapted), set(adapted.new_parts)
    for file, names in file_names(adapted).items():
        saved = read_tensors(path / file)
        for key, name in names.items():
            if name not in saved or not torch.equal(saved[name], state[key].detach().cpu()):
                raise RunError(f"tensor {name} was not saved as it was trained", where=str(path / file))
        missing -= set(names)
    if missing:
        raise RunError(f"the trained head was not saved: {', '.join(sorted(missing))}", where=str(path))
    told = read_json(path / OURS)
    live = {name: a.units.live if a.units.divisible else a.rank for name, a in adapted.adapters.items()}
    if {site["name"]: site["rank"] for site in told["sites"]} != live:
        raise RunError("the ranks that were saved are not those that were trained", where=str(path / OURS))
    counted = adapted.adapter_parameters(), adapted.head_parameters()
    if (told["adapter_parameters"], told["head_parameters"]) != counted:
        raise RunError("the parameters that were saved are not those that were trained", where=str(path / OURS))
