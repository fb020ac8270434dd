"""Weights that come from disk one at a time, where memory is not to hold what lies there as well.

As it is, transformers maps a file into memory, and weights of the file's own dtype stay there: nothing is held twice. Those that become
another dtype, or 8 or 4 bits, are new arrays beside it, and the file stays resident until the last weight is made. Here each is read by
itself and let go as soon as it is what it will be: a bfloat16 checkpoint never is one in float32 as well, and a model in 4 bits is never
a whole one in 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import modeling_utils
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.heap import trim

METHOD = "lorakit"
"""What transformers knows the quantiser by, while it loads."""
Quantise = Callable[[nn.Linear], None]
"""Quantises a module's weight where it lies."""


@contextmanager
def weights_read() -> Iterator[None]:
    """In here transformers reads weights from their file, and maps none: it does the same by itself on Windows."""
    names = vars(modeling_utils)
    mapping = names["safe_open"]

    def read(file: Any, *args: Any, **options: Any) -> Any:
        return FileRead(mapping(file, *args, **options | {"backend": "pread"}))

    names["safe_open"] = read
    try:
        yield
    finally:
        names["safe_open"] = mapping


class FileRead:
    """An open file of weights, of which a whole one is held once: safetensors reads a slice and then copies it, whole or not."""

    def __init__(self, file: Any):
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def get_slice(self, name: str) -> WeightRead:
        """What its ``[...]`` gives is read then."""
        return WeightRead(self.file, name)


class WeightRead:
    """One weight of it, not read so far."""

    def __init__(self, file: Any, name: str):
        self.file, self.name = file, name
        self.slice = file.get_slice(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.slice, name)

    def __getitem__(self, index: Any) -> torch.Tensor:
        read: torch.Tensor = self.file.get_tensor(self.name) if index is ... else self.slice[index]
        return read


def stored_as(folder: Path, dtype: torch.dtype) -> bool:
    """Whether all weights of the checkpoint in ``folder`` that are no whole numbers have this dtype on disk already."""
    short = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        if any(kind != short and kind.startswith(("F", "BF")) for kind in kinds):
            return False
    return True


@register_quantization_config(METHOD)
class QuantisedOnTheWay(QuantizationConfigMixin):
    """Asks transformers to hand over every weight of a plain Linear of the layers when it comes from disk."""

    def __init__(self, quantise: Quantise):
        self.quant_method = METHOD  # type: ignore[assignment]
        self.quantise = quantise


@register_quantizer(METHOD)
class Quantiser(HfQuantizer):
    """Quantises the sites' weights as they come, and leaves no trace of itself in the model."""

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        linears = [site.name for site in Anatomy(model).sites if type(model.get_submodule(site.name)) is nn.Linear]
        self.waiting = {f"{name}.weight" for name in linears}
        return model

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether it is the weight of such a Linear."""
        return param_name in self.waiting

    def get_quantize_ops(self) -> ConversionOps:
        """What is done to each."""
        return Arrival(self)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for module in model.modules():
            if isinstance(module, modeling_utils.PreTrainedModel):
                module.config.__dict__.pop("_is_quantized", None)
                module.config.__dict__.pop("quantization_config", None)
        del model.hf_quantizer, model.quantization_method, model.is_quantized
        return model

    def is_serializable(self) -> bool:
        """Not as transformers would write it."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Only what is beside the weights trains."""
        return True


class Arrival(ConversionOps):
    """A weight that comes from disk goes into its module, quantised; one of another shape is given back, for transformers to tell."""

    def __init__(self, quantiser: Quantiser):
        self.quantiser = quantiser

    def convert(  # type: ignore[override]
        self, input_dict: dict[str, Any], *, model: Any, missing_keys: set[str], **kwargs: Any
    ) -> dict[str, Any]:
        """What is left for transformers to put in: nothing, or all."""
        left = {}
        for name, found in input_dict.items():
            weight = found[0] if isinstance(found, list) else found
            module = model.get_submodule(name.removesuffix(".weight"))
            if type(module) is nn.Linear and module.weight.shape == weight.shape:
                module.weight = nn.Parameter(weight, requires_grad=False)
                self.quantiser.quantization_config.quantise(module)  # type: ignore[attr-defined]
                module.__dict__["_is_hf_initialized"] = True
                missing_keys.discard(name)
                trim()
            else:
                self.quantiser.waiting.discard(name)
                left[name] = weight
        return left
