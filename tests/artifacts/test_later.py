"""Tensors that are made when they are needed."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lorakit.artifacts.later import Later


def test_it_describes_itself_without_being_made():
    later = Later.of(torch.empty(3, 5, dtype=torch.bfloat16), lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert (later.shape, later.dtype, later.device.type) == ((3, 5), torch.bfloat16, "meta")
    assert (later.numel(), later.element_size(), later.untyped_storage().nbytes()) == (15, 2, 30)


def test_it_is_made_when_it_is_asked_to_be_contiguous_and_by_any_other_operation():
    value, asked = torch.arange(6.0).reshape(2, 3), []

    def make() -> torch.Tensor:
        asked.append(1)
        return value

    later = Later.of(value, make)
    assert later.contiguous() is value
    assert torch.equal(torch.cat([later, later]), torch.cat([value, value]))
    assert torch.equal(later.T @ later, value.T @ value)
    assert type(later + 1) is torch.Tensor
    assert len(asked) == 6


def test_it_is_written_as_what_it_becomes(tmp_path: Path):
    value = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    save_file({"w": Later.of(value, lambda: value).contiguous()}, tmp_path / "w.safetensors")
    assert torch.equal(load_file(tmp_path / "w.safetensors")["w"], value)
