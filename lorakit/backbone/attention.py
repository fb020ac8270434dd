"""Where transformers' attention functions are called, and how one module gets another one.

transformers looks an attention function up by the name that the attention module's config gives; a module whose config is a copy with
another name calls another function, and the rest of the model knows nothing of it.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
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


def original_attention(name: str, module: nn.Module) -> Callable[..., Any]:
    """The attention function called ``name`` that the module would have called itself."""
    if name == "eager":  # each model's own, beside it
        function: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        return function
    from transformers import AttentionInterface  # which takes seconds to import

    return AttentionInterface()[name]


def leaves_to_its_kernel(name: str, module: nn.Module, mask: object, is_causal: bool | None) -> bool:
    """Whether later tokens are hidden although there is no mask: by sdpa's kernel, in causal attention that is given none."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return mask is None and name != "eager" and bool(causal)
