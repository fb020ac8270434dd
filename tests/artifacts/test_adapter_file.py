"""What is written is read again bit for bit, here and by PEFT."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters.adapted_models import fresh, trained
from support.runs import Bench, edited_json
from support.thinned import crossed
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from lorakit.artifacts import adapter_file
from lorakit.artifacts.adapter_file import load_adapter, save_adapter
from lorakit.artifacts.files import read_json
from lorakit.artifacts.peft.export import peft_form
from lorakit.artifacts.peft.layout import all_in_peft
from lorakit.errors import RunError

SHORTCUTS = "adapter.shortcuts=[res1,in,mid]"


def logits(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.randint(4, 60, (3, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=tokens, attention_mask=mask).logits
    return result


@pytest.mark.parametrize(
    ("family", "method"),
    crossed(["bert", "deberta_v2", "gpt2", "llama"], ["rslora", "dora", "lora", "lora_fa"], turn=0),
)
def test_saved_and_loaded_is_the_same_bit_for_bit(bench: Bench, tmp_path: Path, family: str, method: str):
    """Head, shortcuts and sites of every state."""
    shortcuts = "adapter.shortcuts=[]" if family == "deberta_v2" else SHORTCUTS
    settings = (f"adapter.method={method}", "adapter.targets=[all]", shortcuts)
    adapted = trained(bench, *settings, family=family)
    adapted.switch([site.name for site in adapted.sites[::3]], off="drop")
    frozen = [site.name for site in adapted.sites[1::3]]
    adapted.restore(adapted.states() | dict.fromkeys(frozen, "frozen"))
    expected = logits(adapted.model)
    save_adapter(adapted, tmp_path / "adapter")

    again = fresh(bench, *settings, "run.seed=5", family=family)
    assert not torch.equal(logits(again.model), expected)
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(logits(again.model), expected)
    assert again.states() == adapted.states()
    assert again.in_function == adapted.in_function
    for name in again.in_function:
        for (key, ours, _), (_, theirs, _) in zip(
            again.adapters[name].tensors(), adapted.adapters[name].tensors(), strict=True
        ):
            assert torch.equal(ours, theirs), (name, key)


def test_dropped_sites_are_not_written(bench: Bench, tmp_path: Path):
    adapted = trained(bench, SHORTCUTS)
    keep = [adapted.sites[0].name, next(site.name for site in adapted.sites if site.is_shortcut)]
    adapted.switch(keep)
    save_adapter(adapted, tmp_path / "adapter")
    written = set(load_file(tmp_path / "adapter" / "lorakit_model.safetensors"))
    assert written == {
        *(f"{name}.{letter}" for name in keep for letter in "AB"),
        "classifier.weight",
        "classifier.bias",
    }
    told = {site["name"]: site for site in read_json(tmp_path / "adapter" / "lorakit.json")["sites"]}
    assert {name for name, site in told.items() if site["state"] == "on"} == set(keep)
    assert set(told) == {site.name for site in adapted.sites}


@pytest.mark.parametrize("settings", [(SHORTCUTS,), (SHORTCUTS, "adapter.shortcut_norm=paper")])
def test_peft_loads_no_part_of_what_it_cannot_hold(bench: Bench, tmp_path: Path, settings: tuple[str, ...]):
    """It would answer without the shortcuts, and with the paper's norm also where they are all off."""
    adapted = trained(bench, *settings)
    if len(settings) > 1:
        adapted.switch([site.name for site in adapted.sites if not site.is_shortcut])
    save_adapter(adapted, tmp_path)
    base: Any = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    with pytest.raises(ValueError, match=r"Can't find 'adapter_config\.json'"):
        peft.PeftModel.from_pretrained(base, tmp_path)
    with pytest.raises(RunError, match="PEFT cannot express"):
        peft_form(adapted)


def test_an_older_folder_with_shortcuts_beside_peft_s_files_is_read(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    adapted = trained(bench, SHORTCUTS)
    with monkeypatch.context() as older:
        older.setattr(adapter_file, "is_native", all_in_peft)
        save_adapter(adapted, tmp_path)
    assert set(load_file(tmp_path / "lorakit_model.safetensors")) == {
        f"{site.name}.{letter}" for site in adapted.sites if site.is_shortcut for letter in "AB"
    }
    again = fresh(bench, SHORTCUTS, "run.seed=5")
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again.model), logits(adapted.model))


PEFT_CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "bert": ("bert", ()),
    "bert, all roles": ("bert", ("adapter.targets=[all]",)),
    "roberta's two-layer head": ("roberta", ()),
    "deberta's pooler is new": ("deberta_v2", ()),
    "distilbert's pre_classifier": ("distilbert", ()),
    "gpt2's Conv1D": ("gpt2", ("adapter.targets=[all]",)),
    "llama": ("llama", ("adapter.targets=[all]",)),
    "opt": ("opt", ()),
    "dora": ("bert", ("adapter.method=dora",)),
    "dora on Conv1D": ("gpt2", ("adapter.method=dora", "adapter.targets=[all]")),
    "rslora": ("bert", ("adapter.method=rslora",)),
    "a scale that is no round number": ("bert", ("adapter.rank=3", "adapter.alpha=7")),
    "three labels and a rank each": ("bert", ("task.labels=[plain,happy,other]",)),
}


@pytest.mark.parametrize(("case", "choice"), crossed(PEFT_CASES, ["all on", "some off"], turn=1))
def test_peft_gives_the_same_logits(bench: Bench, tmp_path: Path, case: str, choice: str):
    """PeftModel.from_pretrained on the plain checkpoint with its random head; off sites are left out of its config."""
    family, settings = PEFT_CASES[case]
    if case.startswith("three labels"):
        query = "{layer}.attention.self.query: {rank}"
        names = ", ".join("bert.encoder.layer." + query.format(layer=layer, rank=layer + 1) for layer in (0, 1))
        settings = (*settings, f"adapter.allocation={{{names}}}")
    adapted = trained(bench, *settings, family=family)
    if choice == "some off":
        adapted.switch([site.name for site in adapted.sites[::2]])
    save_adapter(adapted, tmp_path)
    config: Any = adapted.model.config
    base: Any = AutoModelForSequenceClassification.from_pretrained(
        bench.backbone(family), num_labels=config.num_labels, pad_token_id=config.pad_token_id
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # so PEFT speaks of keys it misses
        twin = peft.PeftModel.from_pretrained(base, tmp_path)
    assert_close(logits(twin), logits(adapted.model), rtol=1e-4, atol=1e-5)


def test_peft_needs_no_other_base_than_the_config_names(bench: Bench, tmp_path: Path):
    save_adapter(trained(bench), tmp_path)
    config = peft.PeftConfig.from_pretrained(tmp_path)
    assert config.base_model_name_or_path == str(bench.backbone())
    assert (config.peft_type, config.task_type, config.inference_mode) == ("LORA", "SEQ_CLS", True)


Damage = Callable[[Path], None]


def rewrite(file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file)

    return damage


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.classifier.weight"] = torch.zeros(2, 3)


def cut(file: str) -> Damage:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-9]) and None


def forget_sites(folder: Path) -> None:
    with edited_json(folder / "lorakit.json") as told:
        told["sites"].pop()


def forget_all_sites(folder: Path) -> None:
    with edited_json(folder / "lorakit.json") as told:
        del told["sites"]


@pytest.mark.parametrize(
    ("form", "damage", "message"),
    [
        ("peft", cut("adapter_model.safetensors"), "cannot be read"),
        ("lorakit", cut("lorakit_model.safetensors"), "cannot be read"),
        ("lorakit", cut("lorakit.json"), "cannot be read as JSON"),
        (
            "peft",
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            "adapter_model.safetensors is missing",
        ),
        (
            "lorakit",
            lambda folder: (folder / "lorakit_model.safetensors").unlink(),
            "lorakit_model.safetensors is missing",
        ),
        ("lorakit", lambda folder: (folder / "lorakit.json").unlink(), "lorakit.json is missing"),
        (
            "peft",
            rewrite("adapter_model.safetensors", lambda t: t.pop("base_model.model.classifier.bias")),
            "bias is missing",
        ),
        ("peft", rewrite("adapter_model.safetensors", reshape), r"has shape \[2, 3\], not \[2, 32\]"),
        ("peft", forget_sites, "sites are not those of this model"),
        ("peft", forget_all_sites, "is not the description of an adapter"),
    ],
)
def test_damage_is_a_run_error(bench: Bench, tmp_path: Path, form: str, damage: Damage, message: str):
    settings = ("adapter.shortcuts=[res1]",) if form == "lorakit" else ()
    adapted = trained(bench, *settings)
    save_adapter(adapted, tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(RunError, match=message) as caught:
        load_adapter(fresh(bench, *settings), tmp_path / "adapter")
    assert caught.value.exit_code == 1
    assert str(tmp_path / "adapter") in caught.value.problems[0].where


def test_an_adapter_of_another_rank_does_not_fit(bench: Bench, tmp_path: Path):
    save_adapter(trained(bench, "adapter.rank=2"), tmp_path / "adapter")
    with pytest.raises(RunError, match="has shape"):
        load_adapter(fresh(bench), tmp_path / "adapter")


def test_a_failed_save_leaves_the_adapter_before_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = trained(bench)
    save_adapter(adapted, tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", tmp_path / "copy")
    monkeypatch.setattr("lorakit.artifacts.adapter_file.description", lambda adapted: {"broken": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_adapter(trained(bench, "run.seed=3"), tmp_path / "adapter")
    for path in (tmp_path / "copy").iterdir():
        assert (tmp_path / "adapter" / path.name).read_bytes() == path.read_bytes()
