"""The quantised weights that belong to a run: kept as they are, told from others, and refused where they are not the run's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters.adapted_models import fresh, trained
from support.runs import Bench

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import load_adapter, save_adapter
from lorakit.artifacts.base_file import FILE, SUMS, load_base, write_base
from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import Run
from lorakit.artifacts.warm_start import start_from
from lorakit.errors import RecipeError, RunError
from lorakit.tasks.cache import sha256_of
from lorakit.workflow.setup import adapt, assemble

LOFTQ = ("model.quantization=nf4", "adapter.method=loftq", "adapter.rank=4", "adapter.targets=[q,up]")
DOUBLE = "model.double_quant=true"


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")


def empty(bench: Bench, *settings: str) -> AdaptedModel:
    """A model whose tensors are to be loaded."""
    return adapt(assemble(bench.load(*settings)), statistics=None)


@pytest.mark.parametrize("settings", [(*LOFTQ, DOUBLE), (*LOFTQ, "adapter.decomposition=magnitude")])
def test_what_is_loaded_is_what_was_kept(bench: Bench, tmp_path: Path, settings: tuple[str, ...]):
    run, adapted, again = Run(tmp_path / "run"), trained(bench, *settings), empty(bench, *settings)
    write_base(adapted, run)
    save_adapter(adapted, run.weights("last"))
    held = load_file(run.base / FILE)
    roles = {name.rsplit(".", 2)[-2] for name in held}
    assert roles == {"query", "dense"}
    assert not all(torch.equal(buffer, held[name]) for name, buffer in again.own_base().items())  # W rounded as it is
    load_base(again, run)
    load_adapter(again, run.weights("last"))
    assert all(torch.equal(buffer, held[name]) for name, buffer in again.own_base().items())
    inputs = {"input_ids": torch.arange(4, 12).view(2, 4), "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    logits = [each.model.eval()(**inputs).logits for each in (adapted, again)]
    assert torch.equal(*logits)


@pytest.mark.parametrize(("settings", "bits"), [((), 4 + 32 / 64), ((DOUBLE,), 4 + 8 / 64 + 32 / (64 * 256))])
def test_the_file_has_the_bits_of_the_formula(tmp_path: Path, bench: Bench, settings: tuple[str, ...], bits: float):
    """Beside tables of 16 numbers, and 256 of scales with their offset, a site: bitsandbytes has them with every weight."""
    adapted = fresh(bench, *LOFTQ, *settings)
    write_base(adapted, Run(tmp_path))
    held = load_file(tmp_path / "base" / FILE)
    numbers = sum(site.in_features * site.out_features for site in adapted.sites)
    tables = len(adapted.sites) * 4 * (16 + (257 if settings else 0))
    scales = sum(-(-site.in_features * site.out_features // (64 * 256)) for site in adapted.sites)
    exact = numbers * (4 + 8 / 64) / 8 + 4 * scales if settings else numbers * bits / 8
    assert sum(tensor.nbytes for tensor in held.values()) == exact + tables


def test_the_same_start_gives_the_same_bytes(bench: Bench, tmp_path: Path):
    for name in ("one", "two"):
        write_base(fresh(bench, *LOFTQ), Run(tmp_path / name))
    assert (tmp_path / "one" / "base" / FILE).read_bytes() == (tmp_path / "two" / "base" / FILE).read_bytes()


def test_a_run_without_such_a_start_keeps_nothing(bench: Bench, tmp_path: Path):
    adapted = fresh(bench, "model.quantization=nf4")
    write_base(adapted, Run(tmp_path))
    load_base(adapted, Run(tmp_path))
    assert (adapted.own_base(), adapted.base_digest, list(tmp_path.iterdir())) == ({}, "", [])


def test_what_is_missing_damaged_or_another_one_is_refused(bench: Bench, tmp_path: Path):
    run, adapted = Run(tmp_path), fresh(bench, *LOFTQ)
    write_base(adapted, run)
    path = run.base / FILE
    held = load_file(path)
    with pytest.raises(RunError, match="absmax is missing, and this model's"):
        load_base(empty(bench, *LOFTQ, "adapter.targets=[q,v,up]"), run)
    name = next(name for name in held if name.endswith("codes"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="not those that were written"):
        load_base(empty(bench, *LOFTQ), run)
    save_file(held | {name: held[name][:-1].clone()}, path)
    write_json(run.base / SUMS, {FILE: sha256_of(path)})
    with pytest.raises(RunError, match=r"codes is torch.uint8 \[\d+, 1\], and this model's"):
        load_base(empty(bench, *LOFTQ), run)
    shutil.rmtree(run.base)
    with pytest.raises(RunError, match=r"quantised\.safetensors is missing: .* cannot be found again") as caught:
        load_base(empty(bench, *LOFTQ), run)
    assert caught.value.problems[0].hint


def test_an_adapter_gets_onto_no_other_weights(bench: Bench, tmp_path: Path):
    save_adapter(trained(bench, *LOFTQ), tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()  # PEFT would add B A to other weights
    for other in (empty(bench, *LOFTQ), fresh(bench, *LOFTQ, "adapter.init_steps=2")):
        with pytest.raises(RunError, match="belongs to quantised weights of its own run"):
            load_adapter(other, tmp_path / "adapter")
    plain = ("model.quantization=nf4", "adapter.rank=4", "adapter.targets=[q,up]", "adapter.alpha=16")
    with pytest.raises(RecipeError, match="rounds the weights for the adapter that it starts") as caught:
        start_from(fresh(bench, *plain), tmp_path / "adapter")
    assert caught.value.problems[0].key == "adapter.start"
