"""What can be guessed of a model whose family nobody described: its lists of layers, and roles that names give away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from lorakit.backbone.quantised import QuantisedLinear

# Endings of module paths that say what a projection does, in the models transformers ships. The longest ending wins.
ENDINGS = {
    "q": "query query_proj q_proj q_lin q attention.wq",
    "k": "key key_proj k_proj k_lin k attention.wk",
    "v": "value value_proj v_proj v_lin v attention.wv",
    "qkv": "qkv qkv_proj query_key_value c_attn Wqkv",
    "o": "o_proj out_lin o attention.wo attn.Wo attn.c_proj attn.out_proj self_attn.out_proj encoder_attn.out_proj "
    "attention.out_proj self_attention.dense self_attn.dense attention.output.dense",
    "up": "up_proj fc1 lin1 c_fc fc_in dense_h_to_4h intermediate.dense DenseReluDense.wi DenseReluDense.wi_1",
    "gate": "gate_proj DenseReluDense.wi_0",
    "down": "down_proj fc2 lin2 fc_out dense_4h_to_h output.dense mlp.c_proj mlp.Wo DenseReluDense.wo",
}
TOWERS = ("vision", "visual", "audio")  # parts of multimodal models that text never passes through
PLAIN = (nn.Linear.forward, Conv1D.forward, QuantisedLinear.forward)
READ_NOT_CALLED = {
    "JambaMambaMixer": ("dt_proj",)
}  # class -> its Linears whose weight it reads, as MultiheadAttention does
TRIED: dict[type[nn.Module], bool] = {}  # classes with a forward of their own -> whether it is a linear one
ROLE_OF_ENDING = {ending: role for role, endings in ENDINGS.items() for ending in endings.split()}


def adaptable(module: nn.Module) -> bool:
    """Whether a low-rank update of this module's weight takes part in its forward pass, which is that of a plain Linear or Conv1D.

    ``nn.MultiheadAttention`` reads the weight of its output projection without calling it, so that one does not count; nor does a
    router that is a Linear and returns what it chose.
    """
    if not isinstance(module, (nn.Linear, Conv1D)) or isinstance(module, NonDynamicallyQuantizableLinear):
        return False
    return type(module).forward in PLAIN or computes_linear(module)


def adaptable_modules(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """The (path, module) pairs of what can be adapted, without Linears that their owner reads the weight of instead of calling them."""
    read = {
        id(getattr(owner, name)) for owner in root.modules() for name in READ_NOT_CALLED.get(type(owner).__name__, ())
    }
    return [(path, module) for path, module in root.named_modules() if adaptable(module) and id(module) not in read]


def computes_linear(module: nn.Module) -> bool:
    """Whether a Linear with a forward of its own gives ``W x + b`` all the same; tried once a class."""
    kind = type(module)
    if kind not in TRIED:
        weight: torch.Tensor = module.get_parameter("weight")
        weight, bias = weight.T if isinstance(module, Conv1D) else weight, getattr(module, "bias", None)
        x = torch.linspace(-1, 1, 2 * weight.shape[1], device=weight.device).to(weight.dtype).view(2, -1)
        try:
            with torch.no_grad():
                found, expected = module(x), F.linear(x, weight, bias)
            same = isinstance(found, torch.Tensor) and found.shape == expected.shape
            TRIED[kind] = same and (found.is_meta or torch.allclose(found, expected, rtol=1e-2, atol=1e-2))
        except Exception:
            TRIED[kind] = False
    return TRIED[kind]


def left_out(layers: Sequence[tuple[str, nn.Module]]) -> list[str]:
    """What of the layers holds matrices that are no adaptable module, each told once: a router, fused experts, a convolution."""
    told: dict[str, None] = {}
    for _, layer in layers:
        adapted = {path for path, _ in adaptable_modules(layer)}
        for path, module in layer.named_modules():
            if isinstance(module, nn.Linear) and path not in adapted:
                told[f"{path} ({type(module).__name__})"] = None
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 2:
                    told[f"{path}.{name} ({'x'.join(map(str, parameter.shape))})"] = None
    return list(told)


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(in_features, out_features) of a Linear, weight (out, in), or of a Conv1D, weight (in, out)."""
    if isinstance(module, QuantisedLinear):
        return module.in_features, module.out_features
    rows, columns = module.get_parameter("weight").shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def guess_role(path: str) -> str:
    """The role that a module's path inside its layer gives away, ``other`` where it does not."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        role = ROLE_OF_ENDING.get(".".join(parts[-length:]))
        if role:
            return role
    return "other"


def find_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The (path, layer) pairs of every outermost list whose items all hold something adaptable, in model order.

    An encoder-decoder has two such lists, and their layers are numbered through. A model that keeps one layer and runs it
    many times (ALBERT) has one layer, adapted once and used each time. Image and sound towers are left out.
    """
    layers: list[tuple[str, nn.Module]] = []
    taken: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in taken)
        if inside or not isinstance(module, nn.ModuleList) or not len(module) or any(t in path for t in TOWERS):
            continue
        if all(any(map(adaptable, layer.modules())) for layer in module):
            taken.append(path)
            layers += [(f"{path}.{index}", layer) for index, layer in enumerate(module)]
    return layers
