"""Merged folders that transformers by itself would load and then answer otherwise: so they do not load there.

Their weights are not all of them (shortcuts), or texts are read as only lorakit does (``task.long``, ``backbone.padding``).

config.json                       the model's own, but for "model_type", which no other library knows; its own stands beside it
model.lorakit.safetensors         the weights, as transformers' variant "lorakit", which nobody loads without asking for it
lorakit.json, lorakit_model...    what a plain checkpoint has no place for
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lorakit.errors import RunError

CONFIG, RECORD = "config.json", "lorakit.json"
ADAPTED = "lorakit_adapted (a plain loader would answer otherwise: only lorakit.load reads all of it)"
"""The model type: transformers' error quotes it."""
OWN_TYPE = "lorakit_model_type"
LENGTH = "tokenizer_max_length"
"""The entry of a merged folder's record that ``longest_row`` reads."""
NO_LIMIT = 2**53
"""What stands there for a tokenizer without a limit, which transformers calls 10**30: more than a record's numbers may be."""
VARIANT = "lorakit"
"""What transformers puts into the names of the weight files."""


def close_to_others(folder: Path) -> None:
    """Give the config.json of a checkpoint that was saved as ``VARIANT`` the model type that no other library loads."""
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config[OWN_TYPE], config["model_type"] = config["model_type"], ADAPTED
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def is_closed(folder: Path) -> bool:
    """Whether ``close_to_others`` was here. False too for a configuration that cannot be read, which is told where it is loaded."""
    return OWN_TYPE in told(folder / CONFIG)


def has_shortcuts(folder: Path) -> bool:
    """Whether a merged folder, an open one of an older lorakit too, holds shortcuts beside its weights, or does not tell."""
    return told(folder / RECORD).get("shortcuts", is_closed(folder) or None) is not None


def longest_row(folder: Path, otherwise: int) -> int:
    """Tokens that a merged folder's tokenizer took before it was given the run's own number; ``otherwise`` for any other folder."""
    tokens = told(folder / RECORD).get(LENGTH)
    return tokens if type(tokens) is int and tokens > 0 else otherwise


def told(path: Path) -> dict[str, Any]:
    """The JSON object in a file as it lies there; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_closed(folder: Path) -> Any:
    """The model's own configuration. RunError where it names a model that transformers does not have."""
    config = told(folder / CONFIG)
    own = config.pop(OWN_TYPE)
    if own not in CONFIG_MAPPING:
        raise RunError(f"{OWN_TYPE}: there is no model of type {own!r}", where=str(folder / CONFIG))
    return CONFIG_MAPPING[own].from_dict(config | {"model_type": own})
