"""A classifier as an ONNX file, by PyTorch's exporter, and ONNX Runtime as a model that answers from one.

Inputs are what the tokenizer makes, int64 (rows, tokens), both of any size; the output is ``logits`` (rows, labels). Padding is what the
model's own forward takes for padding: the attention mask, and for the last token of a decoder the pad token's id, which is in the graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lorakit.backbone.config_and_tokenizer import first_line
from lorakit.errors import RunError, UsageError

NEEDED = ("onnx", "onnxscript", "onnxruntime")
MODEL, INT8 = "model.onnx", "model-int8.onnx"
ONE_FILE = 1_500_000_000
"""Bytes of weights above which they lie beside the file, which may have 2 GB."""
ROWS, TOKENS = 3, 8
"""Of the batch that the exporter follows: no two of its sizes are one, as it takes equal sizes for the same."""
UNSUPPORTED = "ONNX has no form for what this model computes"


def check_installed() -> None:
    """UsageError where the extra is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        what = f"ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise UsageError(what, hint="pip install 'lorakit[onnx]'")


class InOrder(nn.Module):
    """A model that takes its inputs by place, and gives its logits in float32."""

    def __init__(self, model: nn.Module, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """names, in order -> (rows, labels)."""
        logits: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits.float()


def write_onnx(model: nn.Module, names: Sequence[str], longest: int, path: Path) -> None:
    """Write a model in evaluation mode, on the CPU and in float32, into the file ``path``.

    names: of its inputs; longest: tokens of a row, at most. RunError where it cannot be exported.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    config: Any = model.config
    config.use_cache = False
    inputs = tuple(torch.ones(ROWS, min(TOKENS, longest), dtype=torch.long) for _ in names)
    sizes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens", max=longest)}
    size = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    try:
        with quiet_exporter():
            program: Any = torch.onnx.export(
                InOrder(model, names).eval(),
                inputs,
                dynamo=True,
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes=(tuple(sizes for _ in names),),
                verbose=False,
            )
    except Exception as error:  # whatever the exporter says of an operation that it does not know
        reason = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise RunError(f"{UNSUPPORTED}: {first_line(reason)}", hint="lorakit merge") from error
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with the names of this machine's files
    program.save(path, external_data=size > ONE_FILE)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep what the exporter says of other people's packages to itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def write_int8(source: Path, target: Path) -> None:
    """The same with the weights of its products in 8 bits, a scale for each output, and inputs rounded as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)  # it advises on the root logger
    try:
        quantize_dynamic(
            source,
            target,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.with_name(f"{MODEL}.data").exists(),
        )
    finally:
        logger.setLevel(before)


class OnnxModel(nn.Module):
    """A file of ``write_onnx``, on the CPU, with as many threads as PyTorch has, called as the model it was made of.

    Example:
        >>> model = OnnxModel(Path("onnx/model.onnx"))                          # doctest: +SKIP
        >>> model(**tokenizer(["a text"], return_tensors="pt")).logits          # doctest: +SKIP
    """

    def __init__(self, path: Path):
        super().__init__()
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        self.path = path
        self.session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        self.names = [each.name for each in self.session.get_inputs()]

    def forward(self, **inputs: torch.Tensor) -> Any:
        """Its logits (rows, labels); inputs that it does not know are left out. RunError where it cannot take a batch."""
        given = {name: inputs[name].cpu().numpy() for name in self.names}
        try:
            (logits,) = self.session.run(["logits"], given)
        except Exception as error:  # ONNX Runtime has its own kinds
            sizes = " x ".join(map(str, next(iter(given.values())).shape))
            raise RunError(f"does not take a batch of {sizes}: {first_line(error)}", where=str(self.path)) from error
        return SimpleNamespace(logits=torch.from_numpy(logits))
