"""Where transformers' attention functions are called, and how one module gets another one.

transformers looks an attention function up by the name that the attention module's config gives; a module whose config is a copy with
another name calls another function, and the rest of the model knows nothing of it.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import nn


def attention_modules(part: nn.Module) -> list[nn.Module]:
    """The modules in ``part`` that take their attention function from transformers by their config."""
    return [
        module
        for module in part.modules()
        if "ALL_ATTENTION_FUNCTIONS" in inspect.unwrap(type(module).forward).__code__.co_names
        and hasattr(module, "config")
    ]


def with_attention(config: Any, name: str) -> Any:
    """A copy of the config that differs in the attention function alone."""
    copied = copy.copy(config)
    copied.__dict__["_attn_implementation_internal"] = name
    return copied
