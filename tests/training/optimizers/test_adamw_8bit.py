"""AdamW in 8 bits: how near to AdamW, from which size on, what is saved, and what is refused. Paged moments need CUDA: only what is
refused without it is tested here, and that a loaded state goes where a fresh one would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Bench

import lorakit
from lorakit.errors import RecipeError
from lorakit.training.optimizer import optimizers
from lorakit.training.optimizers import adamw_8bit

pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
EIGHT, PAGED = optimizers.get("adamw_8bit"), optimizers.get("paged_adamw_8bit")
CPU = torch.device("cpu")


def stepped(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, steps: int = 6) -> torch.Tensor:
    """The parameter after steps on gradients that are the same for every optimiser."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()
    return parameter.detach()


def groups(parameter: torch.nn.Parameter) -> list[dict[str, Any]]:
    return [{"params": [parameter], "lr": 0.01, "weight_decay": 0.1}]


@pytest.mark.parametrize(("numbers", "small"), [(4095, True), (4096, False)])
def test_moments_are_of_8_bits_from_4096_numbers_on(numbers: int, small: bool):
    settings = EIGHT.settings_from({})
    ours, theirs = (torch.nn.Parameter(torch.ones(numbers)) for _ in range(2))
    optimizer = EIGHT.make(groups(ours), settings, 0)
    difference = (
        (stepped(optimizer, ours) - stepped(torch.optim.AdamW(groups(theirs)), theirs)).abs().max()
    )  # of 6 steps of 0.01
    assert adamw_8bit.is_kept_in_8_bits((numbers,), settings) is not small
    assert EIGHT.state_bytes((numbers,), settings) == (8 * numbers if small else 2 * numbers + 8 * 16)
    assert optimizer.state[ours]["state1"].dtype == (torch.float32 if small else torch.uint8)
    assert difference < (1e-6 if small else 0.02)
    assert small or difference > 1e-6


def test_a_state_has_neither_tables_nor_what_is_nested():
    """safetensors takes neither: the tables are one tensor in every entry."""
    parameter = torch.nn.Parameter(torch.ones(5000))
    optimizer = EIGHT.make(groups(parameter), EIGHT.settings_from({}), 0)
    stepped(optimizer, parameter, 1)
    (entry,) = optimizer.state_dict()["state"].values()
    assert entry.keys() == {"step", "state1", "state2", "absmax1", "absmax2"}


def test_a_loaded_state_goes_where_a_fresh_one_would_be(monkeypatch: pytest.MonkeyPatch):
    """Into the buffers that bitsandbytes hands out, which with CUDA are its pages."""
    parameter = torch.nn.Parameter(torch.ones(5000))
    made = [PAGED.make(groups(parameter), PAGED.settings_from({}), 0) for _ in range(2)]
    with pytest.warns(UserWarning, match="not supported on CPU"):
        stepped(made[0], parameter, 1)
    handed: list[torch.Tensor] = []

    def buffer(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        handed.append(torch.zeros_like(tensor, dtype=dtype))
        return handed[-1]

    monkeypatch.setattr(made[1], "get_state_buffer", buffer)
    made[1].load_state_dict(made[0].state_dict())
    ours, theirs = made[1].state[parameter], made[0].state[parameter]
    assert (ours["state1"] is handed[0], ours["state2"] is handed[1]) == (True, True)
    assert torch.equal(ours["state1"], theirs["state1"])
    assert ours["step"] == 1


def test_no_cuda_for_paged_optimisers(bench: Bench):
    """Where bitsandbytes itself would go on without pages."""
    with pytest.raises(RecipeError, match="no CUDA for paged optimisers") as caught:
        lorakit.plan(bench.load("adapter.method=full", "adapter.dropout=0", "training.optimizer=paged_adamw_8bit"))
    problem = caught.value.problems[0]
    assert (problem.key, problem.hint) == ("training.optimizer", "training.optimizer=adamw_8bit")


def test_paged_moments_are_let_through_where_there_is_cuda():
    PAGED.check(torch.device("cuda"))


def test_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adamw_8bit.importlib.util, "find_spec", lambda name: None)
    for kind, device in ((EIGHT, "cpu"), (PAGED, "cuda")):
        with pytest.raises(RecipeError, match="which is not installed") as caught:
            kind.check(torch.device(device))
        assert caught.value.problems[0].hint == "pip install 'lorakit[quantized]'"


def test_a_bitsandbytes_without_such_a_step_here(monkeypatch: pytest.MonkeyPatch):
    """As 0.49 on a CPU, whose kernel torch does not find."""

    def missing(*_: Any) -> None:
        raise NotImplementedError("Could not run 'bitsandbytes::optimizer_update_8bit_blockwise'")

    monkeypatch.setattr(adamw_8bit.saved_flat("AdamW8bit"), "step", missing)
    with pytest.raises(RecipeError, match=r"has no 8-bit AdamW on this device \(cpu\)") as caught:
        EIGHT.check(CPU)
    assert "adamw or flora" in caught.value.problems[0].valid


def test_adapters_too_small_for_8_bits(bench: Bench):
    """The tiny model's factors have 128 numbers each."""
    with pytest.raises(RecipeError, match=r"at least 4,096 numbers \(smaller ones keep moments in 32 bits\)"):
        lorakit.plan(bench.load("training.optimizer=adamw_8bit"))


def test_a_run_that_was_trained_with_pages_is_evaluated_without_cuda(bench: Bench, tmp_path: Path):
    eight = ("training.optimizer=adamw_8bit", "training.optimizer_options={minimum: 100}", "training.max_steps=1")
    run = bench.train(*eight, run_dir=tmp_path / "run").run_dir
    expected, recipe = lorakit.evaluate(run).scores, run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("optimizer: adamw_8bit", "optimizer: paged_adamw_8bit"))
    assert lorakit.evaluate(run).scores == expected
