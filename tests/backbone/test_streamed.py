"""Weights on their way from disk: the same numbers as by the straight way, one at a time, and no trace of how they came."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models import tiny_model
from support.runs import edited_json
from torch import nn
from transformers import AutoConfig, BertForSequenceClassification, modeling_utils

from lorakit.backbone.quantised import Quantisation, QuantisedLinear, quantised_modules
from lorakit.backbone.streamed import QuantisedOnTheWay, stored_as, weights_read
from lorakit.errors import RunError


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("bert", tmp_path_factory.mktemp("bert"))


def mapped(folder: Path) -> bool:
    """Whether a file of ``folder`` is in this process's address space."""
    gc.collect()
    return str(folder.resolve()) in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's account of a process")
def test_read_weights_are_not_mapped(bert: Path, tmp_path: Path):
    folder = shutil.copytree(bert, tmp_path / "bert")
    straight = BertForSequenceClassification.from_pretrained(folder)
    assert mapped(folder)
    expected = {name: tensor.clone() for name, tensor in straight.state_dict().items()}
    del straight
    with weights_read():
        read = BertForSequenceClassification.from_pretrained(folder)
    assert not mapped(folder)
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in read.base_model.state_dict(prefix="bert.").items()
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of a process")
def test_a_weight_that_is_read_is_held_once(tmp_path: Path):
    table = torch.arange(2**24, dtype=torch.float32).reshape(2**14, 2**10)
    save_file({"table": table}, tmp_path / "one.safetensors")
    with weights_read():
        weight = modeling_utils.safe_open(tmp_path / "one.safetensors", "pt").get_slice("table")
    assert weight.get_dtype() == "F32"
    assert torch.equal(weight[3:5], table[3:5])
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    read = weight[...]
    assert torch.equal(read[::97], table[::97])
    assert 0.9 * table.nbytes < resident("VmHWM") - before < 1.5 * table.nbytes


def resident(field: str) -> int:
    """Bytes of this process, by the kernel."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(found.split()[1]) * 1024


@pytest.mark.parametrize(
    ("stored", "wanted"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "float32")]
)
def test_another_dtype_is_the_file_rounded_once(load, tmp_path: Path, stored: str, wanted: str):
    folder = tiny_model("llama", tmp_path / "llama", dtype=getattr(torch, stored))
    assert stored_as(folder, getattr(torch, stored))
    assert not stored_as(folder, getattr(torch, wanted))
    model = load(folder, dtype=wanted).model
    found = model.base_model.state_dict()
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(found[name], tensor.to(getattr(torch, wanted)))


def test_one_dense_weight_at_a_time(bert: Path):
    """When a weight comes to be quantised, none that came before it is left."""
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    seen: list[weakref.ref[torch.Tensor]] = []
    left = []

    def watch(module: nn.Linear) -> None:
        left.append(sum(one() is not None for one in seen))
        seen.append(weakref.ref(module.weight.untyped_storage()))
        Quantisation("nf4").quantise(module)

    with weights_read():
        model = BertForSequenceClassification.from_pretrained(bert, quantization_config=QuantisedOnTheWay(watch))
    assert len(left) == 12 == len(list(quantised_modules(model)))
    assert set(left[1:]) <= {0, 1}  # transformers lets go of one when it has the next
    for attribute in ("hf_quantizer", "quantization_method"):
        assert not hasattr(model, attribute)
    assert not {"quantization_config", "_is_quantized"} & set(vars(model.config))


@pytest.mark.parametrize("family", ["bert", "llama", "qwen2"])
def test_quantised_on_the_way_is_quantised_afterwards(load, tmp_path: Path, family: str):
    """Bit for bit, and all else as it is in the file."""
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    folder = tiny_model(family, tmp_path / family)
    found, plain = load(folder, quantization="nf4").model, load(folder).model
    for name, module in plain.named_modules():
        came = found.get_submodule(name)
        if isinstance(came, QuantisedLinear):
            Quantisation("nf4").quantise(module)
            assert torch.equal(came.weight, module.weight)
    for name, parameter in plain.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter)
        assert found.get_parameter(name).requires_grad == parameter.requires_grad


def test_weights_of_another_shape_are_told(load, bert: Path, tmp_path: Path):
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    folder = shutil.copytree(bert, tmp_path / "bert")
    with edited_json(folder / "config.json") as config:
        config["intermediate_size"] = 56
    assert AutoConfig.from_pretrained(folder).intermediate_size == 56
    with pytest.raises(RunError, match="has them in another shape"):
        load(folder, quantization="nf4")
