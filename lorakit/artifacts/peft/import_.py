"""PEFT's adapter folders, read: LORA (rsLoRA, DoRA, ranks and alphas a module), ADALORA, VERA, IA3 and LN_TUNING.

Nothing is ever unpickled, and nothing is guessed: what adapter_config.json sets that lorakit does not know, a tensor too many or too few,
a module outside the layers are each a RunError.

    ADALORA      dW = B diag(E) A with scale alpha / init_r, the delta `diagonal`
    VERA         the delta `shared_vectors`        IA3   `rescaling`        LN_TUNING   `own_parameters` on the norms
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lorakit.artifacts.adapter_file import OURS, PEFT_CONFIG, PEFT_TENSORS, read_tensors, told_adapter
from lorakit.artifacts.files import read_json
from lorakit.artifacts.peft.layout import LABELS, MAGNITUDE, PREFIX
from lorakit.artifacts.records import reading, words
from lorakit.artifacts.saved_head import saved_labels
from lorakit.artifacts.strict_json import parsed
from lorakit.errors import RunError

Tensors = dict[str, torch.Tensor]
KINDS = ("LORA", "ADALORA", "VERA", "IA3", "LN_TUNING")
EPSILON = 1e-5  # PEFT's AdaLoRA divides by init_r + this

# What may stand in adapter_config.json: what is used here, and what says nothing of the function.
USED = {
    *(
        "peft_type",
        "base_model_name_or_path",
        "r",
        "init_r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
    ),
    *("use_dora", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("feedforward_modules", "lora_dropout", "vera_dropout", "bias", "init_lora_weights", "save_projection"),
}
SILENT = {
    *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "fan_in_fan_out", "megatron_core"),
    *("loftq_config", "eva_config", "runtime_config", "qalora_group_size", "ensure_weight_tying", "init_weights"),
    *(
        "init_ia3_weights",
        "d_initial",
        "projection_prng_key",
        "target_r",
        "tinit",
        "tfinal",
        "deltaT",
        "beta1",
        "beta2",
    ),
    *("orth_reg_weight", "total_step"),
}
STARTS_FROM_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
NAMES, PATTERNED, NUMBER = (str, list), (dict,), (int, float)
TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern"), NAMES),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), PATTERNED),
    **dict.fromkeys(("r", "init_r", "lora_alpha", "lora_dropout", "vera_dropout"), NUMBER),
    "modules_to_save": (list,),
    "layers_to_transform": (int, list),
    "base_model_name_or_path": (str,),
}
REGEXES = (
    "target_modules",
    "exclude_modules",
    "feedforward_modules",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)
PARTS = {
    "LORA": r"(lora_A|lora_B)(\.default)?\.weight|lora_magnitude_vector(\.default)?(\.weight)?",
    "ADALORA": r"(lora_A|lora_B|lora_E)(\.default)?",
    "VERA": r"(vera_lambda_b|vera_lambda_d)(\.default)?",
    "IA3": r"(ia3_l)(\.default)?",
    "LN_TUNING": r"ln_tuning_layers\.(default\.)?(weight|bias)",
}
SAVED_WHOLE = re.compile(r"\.(modules_to_save|original_module)(\.default)?(?=\.)")


@dataclass(frozen=True)
class PeftAdapter:
    """A folder's adapter.

    config: adapter_config.json; parts: module -> its tensors by PEFT's names (``lora_A``); rest: parameter -> tensor, of modules that
    train whole; shared: what modules have in common, by PEFT's names; labels: what the head's outputs are for, in order, as lorakit
    writes it beside; None where nothing tells, as in what PEFT itself wrote.
    """

    path: Path
    config: Mapping[str, Any]
    parts: Mapping[str, Tensors]
    rest: Tensors
    shared: Tensors
    labels: tuple[str, ...] | None = None

    @property
    def kind(self) -> str:
        """PEFT's name of the method."""
        return str(self.config["peft_type"])

    @property
    def base(self) -> str:
        """The model it was made for, empty where the config does not say."""
        return str(self.config.get("base_model_name_or_path") or "")

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Module -> rank, as its tensors have it."""
        first = {"LORA": "lora_A", "ADALORA": "lora_A", "VERA": "vera_lambda_d"}.get(self.kind)
        return {name: tensors[first].shape[0] if first else 1 for name, tensors in self.parts.items()}

    @cached_property
    def scales(self) -> dict[str, float]:
        """Module -> the factor of its update."""
        return {name: self.scale_of(name, rank) for name, rank in self.ranks.items()}

    def scale_of(self, name: str, rank: int) -> float:
        """PEFT's scaling: alpha / r, or alpha / sqrt r, both as the patterns have them."""
        if self.kind == "ADALORA":
            start = float(self.config["init_r"])
            return (float(self.config["lora_alpha"]) or start) / (start + EPSILON)
        if self.kind != "LORA":
            return 1.0
        alpha = float(patterned(self.config.get("alpha_pattern"), name, self.config["lora_alpha"]))
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def error(self, what: str, hint: str = "") -> RunError:
        """Something about this folder."""
        return RunError(what, where=str(self.path), hint=hint)


def is_peft(path: Path) -> bool:
    """Whether the folder holds an adapter as PEFT writes it, and no run."""
    return (path / PEFT_CONFIG).is_file()


def read_peft(path: Path) -> PeftAdapter:
    """The adapter in ``path``. RunError where it cannot be read, or sets something that lorakit does not have."""
    config = read_json(path / PEFT_CONFIG)
    if not isinstance(config, dict):
        raise RunError("does not describe an adapter", where=str(path / PEFT_CONFIG))
    check_config(config, path / PEFT_CONFIG)
    if not (path / PEFT_TENSORS).exists() and (path / "adapter_model.bin").exists():
        raise RunError(
            "adapter_model.bin is a pickle, which can run any code when it is opened: it is not read",
            where=str(path),
            hint="where you trust it, load it in PEFT and save it again with save_pretrained, which writes safetensors",
        )
    parts: dict[str, Tensors] = {}
    rest, shared = {}, {}
    pattern = re.compile(rf"(?P<module>.+)\.(?P<part>{PARTS[config['peft_type']]})")
    for name, tensor in read_tensors(path / PEFT_TENSORS).items():
        if not tensor.is_floating_point():
            raise RunError(f"tensor {name} is of {tensor.dtype}, and not of floating point", where=str(path))
        inner = name.removeprefix(PREFIX)
        if name.startswith("base_model.vera_"):
            shared[name.removeprefix("base_model.").removesuffix(".default")] = tensor
        elif inner == name:
            raise RunError(f"tensor {name} is not named as PEFT names them", where=str(path), valid=f"{PREFIX}...")
        elif found := pattern.fullmatch(inner):
            part = re.sub(r"\.default|\.weight$|ln_tuning_layers\.", "", found["part"])
            parts.setdefault(found["module"], {})[part or "weight"] = tensor
        else:
            rest[SAVED_WHOLE.sub("", inner)] = tensor
    if config["peft_type"] == "ADALORA":  # its allocator may leave a module nothing
        parts = {module: tensors for module, tensors in parts.items() if all(t.numel() for t in tensors.values())}
    adapter = PeftAdapter(path, config, parts, rest, shared, told_labels(path))
    check_tensors(adapter)
    return adapter


def told_labels(path: Path) -> tuple[str, ...] | None:
    """The labels of the head's outputs, where lorakit wrote the adapter: an export, or a run's own folder."""
    if (path / OURS).is_file():
        return saved_labels(path, told_adapter(path))
    with safe_open(path / PEFT_TENSORS, "pt") as file:
        told = (file.metadata() or {}).get(LABELS)
    if told is None:
        return None
    with reading(path / PEFT_TENSORS, "an adapter with its labels"):
        return words(parsed(told), LABELS)


def check_config(config: Mapping[str, Any], where: Path) -> None:
    """Refuse what lorakit does not have, all of it in one message."""
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise RunError(f"peft_type '{kind}' cannot be imported", where=str(where), valid=", ".join(KINDS))
    for name, types in TYPES.items():
        value = config.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, types) or not plain(value)):
            raise RunError(f"{name}: {value!r} cannot be used", where=str(where))
        if valid := out_of_range(name, value):
            raise RunError(f"{name}: {value!r} cannot be used", where=str(where), valid=valid)
        if name == "alpha_pattern" and isinstance(value, dict) and not all(map(is_number, value.values())):
            raise RunError(f"{name}: {value!r} cannot be used", where=str(where), valid="numbers")
        if name in REGEXES and (broken := [text for text in regexes(value) if not compiles(text)]):
            raise RunError(f"{name}: '{broken[0]}' is no regular expression", where=str(where))
    told = [f"{name}={value}" for name, value in config.items() if value and name not in USED | SILENT]
    if config.get("bias", "none") != "none":
        told.append(f"bias={config['bias']}")
    if config.get("save_projection", True) is False:
        told.append("save_projection=false")
    if told:
        raise RunError(f"lorakit has nothing for {', '.join(told)}", where=str(where), hint="merge it with PEFT")
    if config.get("init_lora_weights", True) not in STARTS_FROM_BASE:
        raise RunError(
            f"init_lora_weights={config['init_lora_weights']} changed the base model's weights when it began",
            where=str(where),
            hint="convert it to plain LoRA in PEFT: save_pretrained(path_initial_model_for_weight_conversion=...)",
        )
    needed = {"LORA": ("r", "lora_alpha"), "ADALORA": ("init_r", "lora_alpha"), "VERA": ("r",)}
    missing = [name for name in needed.get(str(kind), ()) if not isinstance(config.get(name), (int, float))]
    if missing:
        raise RunError(f"{', '.join(missing)} must be numbers", where=str(where))


def out_of_range(name: str, value: object) -> str:
    """What a number may be, where it is not that; empty for everything else."""
    if not isinstance(value, (int, float)):
        return ""
    if not math.isfinite(value):
        return "a finite number"
    return "at least 0, less than 1" if name.endswith("_dropout") and not 0 <= value < 1 else ""


def is_number(value: object) -> bool:
    """Whether it is a number, and not a truth."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plain(value: object) -> bool:
    """Whether a list is of words and whole numbers, and a mapping one to numbers or lists (of AdaLoRA's truths)."""
    if isinstance(value, dict):
        return all(isinstance(entry, (int, float, list)) for entry in value.values())
    return all(isinstance(entry, (str, int)) for entry in value) if isinstance(value, list) else True


def regexes(value: Any) -> Sequence[str]:
    """The regular expressions in an entry: itself, where it is a text; the keys of a mapping."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []


def compiles(pattern: str) -> bool:
    """Whether it is a regular expression."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def check_tensors(adapter: PeftAdapter) -> None:
    """Every module has all of its tensors, and ranks that go together with the config's."""
    if not adapter.parts:
        raise adapter.error(f"{PEFT_TENSORS} holds no {adapter.kind} tensor")
    dora = {MAGNITUDE} if adapter.config.get("use_dora") else set()
    wanted = {
        "LORA": {"lora_A", "lora_B"} | dora,
        "ADALORA": {"lora_A", "lora_B", "lora_E"},
        "VERA": {"vera_lambda_b", "vera_lambda_d"},
    }.get(adapter.kind)
    for name, tensors in adapter.parts.items():
        if flat := [part for part, tensor in tensors.items() if not tensor.ndim]:
            raise adapter.error(f"{flat[0]} of {name} is a single number")
        if wanted is not None and set(tensors) != wanted:
            missing, extra = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
            what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(extra)} that its config does not name"
            raise adapter.error(f"{name} {what}")
    if adapter.kind == "VERA" and set(adapter.shared) != {"vera_A", "vera_B"}:
        raise adapter.error("the matrices that the modules share, vera_A and vera_B, are not in it")
    if adapter.kind == "LORA":
        for name, rank in adapter.ranks.items():
            said = patterned(adapter.config.get("rank_pattern"), name, adapter.config["r"])
            if said != rank:
                raise adapter.error(f"{name} has rank {rank} in {PEFT_TENSORS} and {said} in {PEFT_CONFIG}")


def patterned(patterns: Mapping[str, Any] | None, name: str, otherwise: Any) -> Any:
    """The value of the first pattern that ends in the module's name, as PEFT looks it up."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return otherwise


def targeted(config: Mapping[str, Any], name: str) -> bool:
    """Whether the config's target_modules and what narrows them name this module of the model."""
    targets, layers = config.get("target_modules"), config.get("layers_to_transform")
    if matches(config.get("exclude_modules"), name):
        return False
    whole: Sequence[str] = config.get("modules_to_save") or ()
    if any(f".{name}.".find(f".{module}.") >= 0 for module in whole):
        return False
    if targets in (None, "all-linear"):
        return True
    if not matches(targets, name):
        return False
    if isinstance(targets, str) or name in targets or layers in (None, []):
        return True
    given = config.get("layers_pattern") or r"[^.]*"
    layouts = [given] if isinstance(given, str) else given
    found = [re.match(rf"(?:^|.*?\.){layout}\.(?P<number>\d+)\.", name) for layout in layouts]
    number = next((int(match["number"]) for match in found if match), None)
    return number in (layers if isinstance(layers, list) else [layers])


def matches(modules: str | Sequence[str] | None, name: str) -> bool:
    """A regex for the whole path, or a list of paths and of their ends."""
    if not modules:
        return False
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return any(name == module or name.endswith(f".{module}") for module in modules)
