"""Every registered method, saved and loaded again: the same logits bit for bit, and PEFT's config only where PEFT's LoRA agrees."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from support.adapters.cases import SMALL_OPTIONS, Fresh, adapt, batch_for, disturb, evaluated, take_base, to_quantise
from support.models import TinyModels
from support.thinned import crossed
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.init import inits
from lorakit.adapters.method import methods
from lorakit.artifacts.adapter_file import load_adapter, save_adapter
from lorakit.artifacts.combination import update_of
from lorakit.artifacts.peft.export import peft_form
from lorakit.errors import LorakitError
from lorakit.recipe.schema import AdapterSection

RANK, ALPHA = 4, 5.0


@pytest.fixture
def make(fresh: Fresh) -> Callable[..., AdaptedModel]:
    def adapted(family: str, method: str, seed: int = 0, shortcuts: tuple[str, ...] = ()) -> AdaptedModel:
        usual = methods.get(method)
        if inits.get(usual.init).quantises:
            family = "bert"  # Conv1D modules stay as they are
        options = {**dict(usual.options), **SMALL_OPTIONS.get(usual.delta, {})}
        section = AdapterSection(method=method, rank=RANK, alpha=ALPHA, options=options)
        return adapt(to_quantise(fresh(family), section), section, seed=seed, shortcuts=shortcuts)

    return adapted


def refusal_of(call: Callable[[Any], Any], argument: Any) -> LorakitError | None:
    """What ``call`` says against its argument, if anything."""
    try:
        call(argument)
    except LorakitError as error:
        return error
    return None


FAMILIES = ("bert", "gpt2")  # of Linear layers, and of Conv1D; in the default run a method meets one of them


@pytest.mark.parametrize(("method", "family"), crossed(methods.names(), FAMILIES, turn=0))
def test_saved_and_loaded(make: Callable[..., AdaptedModel], tmp_path: Path, family: str, method: str):
    adapted = make(family, method, shortcuts=("res1",))
    disturb(adapted)
    with torch.no_grad():
        for name in adapted.new_parts:
            adapted.tensors()[name].add_(0.1)
    off = [site.name for site in adapted.sites[1::3]]
    adapted.restore(adapted.states() | dict.fromkeys(off, "dropped"))
    expected = evaluated(adapted.model, batch_for(adapted.model))
    save_adapter(adapted, tmp_path / "adapter")

    again = make(family, method, seed=3, shortcuts=("res1",))
    assert not torch.equal(evaluated(again.model, batch_for(again.model)), expected)
    take_base(again, adapted)
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(evaluated(again.model, batch_for(again.model)), expected)
    written = {name for file in (tmp_path / "adapter").glob("*.safetensors") for name in load_file(file)}
    unused = [f"shared.{group}." for group in adapted.shared if set(adapted.sites_sharing(group)) <= set(off)]
    gone = (*(f"{name}." for name in off), *unused)
    live = {key for key in adapted.tensors() if key in adapted.new_parts or not key.startswith(gone)}
    assert len(written) == len(live)
    told = json.loads((tmp_path / "adapter" / "lorakit.json").read_text())
    assert (told["form"] == "peft") == (tmp_path / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize(("method", "family"), crossed(methods.names(), FAMILIES, turn=1))
def test_where_there_is_a_config_peft_agrees(
    make: Callable[..., AdaptedModel], tiny: TinyModels, tmp_path: Path, family: str, method: str
):
    """Saved as it is, and exported: PEFT gives the same logits, or there is one message."""
    adapted = make(family, method)
    disturb(adapted)
    save_adapter(adapted, tmp_path / "adapter")
    places = [tmp_path / "adapter"] if (tmp_path / "adapter" / "adapter_config.json").exists() else []
    refused = refusal_of(peft_form, adapted)
    if refused is None:
        (tmp_path / "exported").mkdir()
        peft_form(adapted).write(tmp_path / "exported")
        places.append(tmp_path / "exported")
    else:
        assert (len(refused.problems), places) == (1, [])
        assert "PEFT cannot express" in str(refused)
    expected = evaluated(adapted.model, batch_for(adapted.model))
    for place in places:
        base: Any = AutoModelForSequenceClassification.from_pretrained(
            tiny(family), num_labels=3, pad_token_id=adapted.model.config.pad_token_id
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", "Unsupported layer type .*Norm")
            twin: Any = peft.PeftModel.from_pretrained(base, place)
        assert_close(evaluated(twin.eval(), batch_for(adapted.model)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", methods.names())
def test_an_update_is_what_merging_would_add(make: Callable[..., AdaptedModel], method: str):
    """What `combine` is given of each site, or one message."""
    adapted = make("bert", method)
    disturb(adapted)
    for holder in (*adapted.adapters.values(), *adapted.shared.values()):
        holder.double()
    for name, adapter in adapted.adapters.items():
        refused = refusal_of(update_of, adapter)
        if refused is not None:
            assert f"{name} cannot be combined" in str(refused)
            continue
        update = update_of(adapter)
        weight = adapter.base_weight().double()
        assert_close(update.dense, (adapter.effective_weight(weight) - weight).detach(), rtol=1e-9, atol=1e-9)
        assert adapter.effective_bias(weight, adapter.base_bias()) is adapter.base_bias()
