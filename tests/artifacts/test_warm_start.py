"""Training from a trained adapter: every tensor of it, and as much of its head as fits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters.adapted_models import fresh, trained
from support.runs import SEARCH, Bench, edited_json

import lorakit
from lorakit.artifacts.adapter_file import save_adapter
from lorakit.artifacts.warm_start import start_from
from lorakit.errors import RecipeError, RunError

METHODS = ("lora", "dora", "pissa", "vera", "ia3", "layer_norm", "trilora")


@pytest.mark.parametrize("method", METHODS)
def test_every_tensor_is_taken_over(bench: Bench, tmp_path: Path, method: str):
    settings = (f"adapter.method={method}", "adapter.rank=4", "adapter.dropout=0", "adapter.shortcuts=[res1]")
    adapted = trained(bench, *settings)
    save_adapter(adapted, tmp_path / "adapter")
    again = fresh(bench, *settings, "run.seed=3")
    start_from(again, tmp_path / "adapter")
    assert {key for key, tensor in again.tensors().items() if torch.equal(tensor, adapted.tensors()[key])} == set(
        again.tensors()
    )
    assert again.on == [site.name for site in again.sites]


def test_sites_that_were_off_start_fresh(bench: Bench, tmp_path: Path):
    adapted = trained(bench, "adapter.shortcuts=[res1]")
    keep = [site.name for site in adapted.sites[::2]]
    adapted.switch(keep)
    save_adapter(adapted, tmp_path / "adapter")
    again, untouched = (fresh(bench, "adapter.shortcuts=[res1]", "run.seed=3") for _ in range(2))
    notes = start_from(again, tmp_path / "adapter")
    assert "3 of 6 sites, the others were off there" in notes[0]
    for name in again.adapters:
        source = adapted if name in keep else untouched
        assert all(torch.equal(again.tensors()[f"{name}.{x}"], source.tensors()[f"{name}.{x}"]) for x in "AB"), name


def test_rank_units_that_were_off_start_fresh(bench: Bench, tmp_path: Path):
    settings = ("adapter.rank=4", "adapter.method=trilora")
    adapted = trained(bench, *settings)
    live = [0, 2]
    for adapter in adapted.adapters.values():
        adapter.units.keep(torch.tensor([unit in live for unit in range(4)]))
    save_adapter(adapted, tmp_path / "adapter")
    again, untouched = (fresh(bench, *settings, "run.seed=3") for _ in range(2))
    start_from(again, tmp_path / "adapter")
    for name in again.adapters:
        for tensor, axis in (("A", 0), ("B", 1), ("g", 0)):
            found = again.tensors()[f"{name}.{tensor}"].movedim(axis, 0)
            assert torch.equal(found[live], adapted.tensors()[f"{name}.{tensor}"].movedim(axis, 0)[live])
            assert torch.equal(found[[1, 3]], untouched.tensors()[f"{name}.{tensor}"].movedim(axis, 0)[[1, 3]])


HEAD = [f"classifier.{layer}.{name}" for layer in ("dense", "out_proj") for name in ("weight", "bias")]


def heads(bench: Bench, tmp_path: Path, there: str, here: str) -> tuple[list[str], list[dict[str, torch.Tensor]]]:
    """What is said of the head, and its tensors: the saved ones, those of the model that starts, those of one that does not."""
    saved = trained(bench, f"task.labels={there}", family="roberta")
    save_adapter(saved, tmp_path / "adapter")
    again, untouched = (fresh(bench, f"task.labels={here}", family="roberta") for _ in range(2))
    said = start_from(again, tmp_path / "adapter")[1:]
    return said, [{name: each.tensors()[name] for name in HEAD} for each in (saved, again, untouched)]


def test_outputs_are_taken_over_by_name(bench: Bench, tmp_path: Path):
    (said,), (saved, again, _) = heads(bench, tmp_path, "[plain,other,happy]", "[happy,plain,other]")
    assert said == f"the head is taken over: {', '.join(HEAD)}; its outputs are put into the order happy, plain, other"
    for name in HEAD:
        assert torch.equal(again[name], saved[name][[2, 0, 1]] if "out_proj" in name else saved[name]), name


def test_outputs_for_other_labels_start_fresh_and_that_is_told(bench: Bench, tmp_path: Path):
    for labels, there in (("[plain,happy,other]", "plain, happy, other"), ("[plain,sad,happy]", "plain, sad, happy")):
        said, (saved, again, untouched) = heads(
            bench, tmp_path, labels, "[plain,happy]" if "other" in labels else "[plain,happy,x]"
        )
        assert said[0] == f"the head is taken over: {', '.join(HEAD[:2])}"
        assert said[1].startswith(f"the head's outputs start fresh, as it is for {there}, this one for plain, happy")
        assert said[1].endswith(f": {', '.join(HEAD[2:])}")
        for name in HEAD:
            assert torch.equal(again[name], (untouched if "out_proj" in name else saved)[name]), name


def test_a_number_and_two_classes_have_no_output_in_common(bench: Bench, tmp_path: Path):
    save_adapter(trained(bench, kind="number"), tmp_path / "adapter")
    assert "it is for a number, this one for happy, plain" in start_from(fresh(bench), tmp_path / "adapter")[1]
    (_, said) = start_from(fresh(bench, kind="number"), tmp_path / "adapter")
    assert said == "the head is taken over: classifier.weight, classifier.bias"


def test_an_older_adapter_is_told_by_its_run_or_by_nothing(bench: Bench, tmp_path: Path):
    run = shutil.copytree(bench.train("training.max_steps=1").run_dir, tmp_path / "run")
    with edited_json(run / "adapter" / "lorakit.json") as told:
        assert told.pop("labels") == ["happy", "plain"]
    turned = fresh(bench, "task.labels=[plain,happy]")
    for path in (run, run / "adapter"):
        assert "its outputs are put into the order plain, happy" in start_from(turned, path)[1]
    moved = shutil.copytree(run / "adapter", tmp_path / "elsewhere")
    assert "start fresh, as nothing says what its outputs are for" in start_from(turned, moved)[1]


def test_a_head_whose_outputs_cannot_be_told_starts_fresh(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lorakit.artifacts.saved_head.output_names", lambda model, among: [])
    (said,), (_, again, untouched) = heads(bench, tmp_path, "[plain,happy]", "[happy,plain]")
    assert said.endswith(f": {', '.join(HEAD)}")
    assert all(torch.equal(again[name], untouched[name]) for name in HEAD)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("adapter.targets=[q]",), "value is there only"),
        (("adapter.targets=[q,k,v]",), "key is here only"),
        (("adapter.rank=2",), "rank of .*query is 4 there and 2 here"),
        (("adapter.alpha=3",), "scale of .*query is 4.0 there and 0.75 here"),
        (("adapter.method=dora",), "decomposition of .*query is none there and magnitude here"),
        (("adapter.delta=diagonal",), "delta of .*query is low_rank there and diagonal here"),
        (("adapter.init=pissa",), "anchored start of .*query is False there and True here"),
    ],
)
def test_another_adapter_is_one_error_and_nothing_is_copied(
    bench: Bench, tmp_path: Path, settings: tuple[str, ...], message: str
):
    save_adapter(trained(bench), tmp_path / "adapter")
    again = fresh(bench, *settings)
    before = {key: tensor.clone() for key, tensor in again.tensors().items()}
    with pytest.raises(RecipeError, match=message) as caught:
        start_from(again, tmp_path / "adapter")
    assert [problem.key for problem in caught.value.problems] == ["adapter.start"]
    assert all(torch.equal(tensor, before[key]) for key, tensor in again.tensors().items())


def test_training_starts_where_the_other_run_ended(bench: Bench, tmp_path: Path) -> None:
    """One more step at rate zero leaves the other run's weights and scores; the key's place is told where the folder is wrong."""
    first = bench.train("training.lr=0.02", "training.max_steps=8")
    still = ("training.lr=1e-12", "training.max_steps=1", "training.weight_decay=0", "run.seed=9")
    again = bench.train(*still, f"adapter.start={first.run_dir}")
    assert again.last == first.last
    one, other = (lorakit.load(run.run_dir).adapted.tensors() for run in (first, again))
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-9)
    with pytest.raises(RecipeError, match="neither a run nor an adapter folder") as caught:
        bench.train(*still, f"adapter.start={tmp_path}")
    assert caught.value.problems[0].where == "command line"


def test_a_search_can_start_from_a_run(bench: Bench) -> None:
    first = bench.train(*SEARCH, "training.max_steps=4")
    again = bench.train(*SEARCH, "training.max_steps=2", f"adapter.start={first.run_dir}")
    assert again.sites_total == first.sites_total
    assert again.adapter_parameters <= again.budget


def test_an_adapter_of_peft_is_to_be_imported_first(bench: Bench, tmp_path: Path):
    adapted = trained(bench)
    save_adapter(adapted, tmp_path)
    (tmp_path / "lorakit.json").unlink()
    with pytest.raises(RecipeError, match="is an adapter of PEFT") as caught:
        start_from(fresh(bench), tmp_path)
    assert "lorakit import" in caught.value.problems[0].hint


def test_a_damaged_file_is_a_run_error(bench: Bench, tmp_path: Path):
    save_adapter(trained(bench), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(RunError, match="cannot be read"):
        start_from(fresh(bench), tmp_path)
    with edited_json(tmp_path / "lorakit.json") as told:
        del told["sites"][0]["axes"]
    with pytest.raises(RunError, match="is not the description of an adapter"):
        start_from(fresh(bench), tmp_path)


def test_a_tensor_that_is_missing_is_told(bench: Bench, tmp_path: Path):
    adapted = trained(bench)
    save_adapter(adapted, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors.pop(f"base_model.model.{adapted.sites[0].name}.lora_B.weight")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(RecipeError, match=r"query.B is missing"):
        start_from(fresh(bench), tmp_path)


def test_a_head_may_stay_where_it_is(bench: Bench, tmp_path: Path):
    save_adapter(trained(bench), tmp_path / "adapter")
    again, untouched = (fresh(bench, "run.seed=3") for _ in range(2))
    notes = start_from(again, tmp_path / "adapter", with_head=False)
    for name, tensor in again.tensors().items():
        assert torch.equal(tensor, untouched.tensors()[name]) == (name in again.new_parts), name
    assert any("the head's outputs start fresh, as adapter.start_head says" in note for note in notes)


@pytest.mark.parametrize("width", [16, 64])
def test_lower_ranks_grow_and_other_widths_are_refused(bench: Bench, tmp_path: Path, width: int):
    save_adapter(trained(bench, "adapter.rank=2", "adapter.alpha=4"), tmp_path / "adapter")
    again, untouched = (fresh(bench, "adapter.alpha=8", "run.seed=3") for _ in range(2))
    start_from(again, tmp_path / "adapter", with_head=False, growing=True)
    for name in again.adapters:
        assert torch.equal(again.tensors()[f"{name}.A"][2:], untouched.tensors()[f"{name}.A"][2:])
    model = f"model.name={bench.backbone('bert', hidden_size=width)}"
    save_adapter(trained(bench, "adapter.rank=2", "adapter.alpha=4", model), tmp_path / "other")
    with pytest.raises(RecipeError, match=rf"is \[2, {width}\] there and \[4, 32\] here"):
        start_from(again, tmp_path / "other", with_head=False, growing=True)
