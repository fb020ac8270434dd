"""PEFT's LoRA form of an adapter: what its tensors are called and what its adapter_config.json says.

    base_model.model.<module>.lora_A.weight              A (rank x in)
    base_model.model.<module>.lora_B.weight              B (out x rank)
    base_model.model.<module>.lora_magnitude_vector      DoRA's m (out)
    base_model.model.<parameter of the head>             whole, its modules named by modules_to_save

A site whose own tensors are exactly these is native: it is saved in this form, and PEFT reads it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter

PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"
TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
"""How classes of transformers end -> PEFT's name for what they do, by which it picks its own class, and the one to load the model with."""
LABELS = "labels"
"""The entry in the metadata of an exported adapter_model.safetensors that names the head's outputs, as JSON; PEFT takes no notice."""


@dataclass(frozen=True)
class LoraSite:
    """A linear site as PEFT's LoRA has it: dW = alpha / rank B A, with m where ``dora``."""

    name: str
    rank: int
    alpha: float
    dora: bool = False
    conv1d: bool = False
    dropout: float = 0.0


def linear_sites(adapted: AdaptedModel) -> list[Adapter]:
    """The adapters in the function, shortcuts left out."""
    return [a for a in adapted.adapters.values() if a.in_function and not a.site.is_shortcut]


def in_peft(adapter: Adapter) -> bool:
    """Whether PEFT's LoRA has this very parametrisation: said by its own class, not by one that it is made from."""
    own = "peft_names" in vars(type(adapter.delta))
    names = {name for name, _, _ in adapter.delta.tensors()}
    return (
        not adapter.own_base
        and adapter.on_weight
        and own
        and adapter.delta.shared is None
        and names == set(adapter.delta.peft_names)
    )


def all_in_peft(adapted: AdaptedModel) -> bool:
    """Whether there are linear sites in the function, and PEFT's LoRA has all of them."""
    adapters = linear_sites(adapted)
    return bool(adapters) and all(map(in_peft, adapters))


def is_native(adapted: AdaptedModel) -> bool:
    """Whether PEFT's LoRA has the whole adapter, of a model of transformers: with shortcuts beside, PEFT would answer otherwise."""
    return all_in_peft(adapted) and not adapted.live_shortcuts and hasattr(adapted.model, "base_model_prefix")


def peft_name(adapter: Adapter, tensor: str) -> str:
    """What PEFT calls this tensor of a native site."""
    return MAGNITUDE if tensor == "magnitude" else adapter.delta.peft_names[tensor]


def native_config(adapted: AdaptedModel) -> dict[str, Any]:
    """adapter_config.json of a native adapter."""
    return lora_config(adapted, [lora_site(a, a.units.live, a.scale * a.units.live) for a in linear_sites(adapted)])


def lora_site(adapter: Adapter, rank: int, alpha: float) -> LoraSite:
    """The site of ``adapter`` at a rank and alpha that need not be its own."""
    dora = adapter.spec.decomposition == "magnitude"
    return LoraSite(adapter.site.name, rank, alpha, dora, adapter.site.kind == "conv1d", adapter.spec.dropout)


def lora_config(adapted: AdaptedModel, sites: Sequence[LoraSite]) -> dict[str, Any]:
    """Plain LoRA with full module paths, ranks and alphas a module (off modules are left out)."""
    first = sites[0]
    return common_config(adapted, "LORA", (site.name for site in sites)) | {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "use_dora": first.dora,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": first.conv1d,
        "rank_pattern": {site.name: site.rank for site in sites},
        "alpha_pattern": {site.name: site.alpha for site in sites},
    }


def common_config(adapted: AdaptedModel, kind: str, modules: Iterable[str]) -> dict[str, Any]:
    """What every adapter_config.json says."""
    return {
        "peft_type": kind,
        "task_type": task_type(adapted.model),
        "base_model_name_or_path": adapted.backbone.name,
        "inference_mode": True,
        "target_modules": list(modules),
        "modules_to_save": head_modules(adapted),
    }


def task_type(model: Any) -> str | None:
    """PEFT's name for what the model does; None for what it has no name for, which its plain PeftModel loads."""
    if model.base_model is model:
        return "FEATURE_EXTRACTION"
    names = [kind.__name__ for kind in type(model).__mro__]
    return next((task for name in names for end, task in TASK_TYPES.items() if name.endswith(end)), None)


def head_modules(adapted: AdaptedModel) -> list[str]:
    """The modules that train whole: the head's by its own name, new parts inside the backbone by their full path."""
    prefix = adapted.backbone.model.base_model_prefix + "."
    return sorted(
        {name.rpartition(".")[0] if name.startswith(prefix) else name.split(".")[0] for name in adapted.new_parts}
    )
