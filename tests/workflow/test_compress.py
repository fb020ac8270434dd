"""Compressed runs: what svd leaves by numpy, what compeft leaves by hand, and runs that every command reads."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.runs import Bench

import lorakit
from lorakit.artifacts.files import read_json, write_json
from lorakit.artifacts.peft.layout import PREFIX
from lorakit.errors import LorakitError, RecipeError, RunError, UsageError
from lorakit.training.seeds import generator
from lorakit.workflow.compress import Code, CompressResult, start_of
from lorakit.workflow.doctor.run_folder import check_run

TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun", "no joke was told in this very long story ."]
RANK, ROLES = 4, ("q", "v")


@pytest.fixture(scope="module")
def run(bench: Bench) -> Path:
    """A run with adapters on queries and values. Not to be written into."""
    return bench.train("training.max_steps=6", "training.lr=0.05", "adapter.dropout=0", name="to-compress").run_dir


@pytest.fixture(scope="module")
def coded(run: Path, tmp_path_factory: pytest.TempPathFactory) -> CompressResult:
    """The same by compeft. Not to be written into."""
    out = tmp_path_factory.mktemp("coded") / "run"
    return lorakit.compress(run, method="compeft", density=0.3, scale=2.0, score=True, out=out)


def saved(run: Path) -> dict[str, torch.Tensor]:
    """``SITE.A`` and ``SITE.B`` of a run of plain LoRA, as PEFT finds them."""
    found = load_file(run / "adapter" / "adapter_model.safetensors")
    names = {name: name.removeprefix(PREFIX) for name in found if "lora_" in name}
    return {ours.replace("lora_", "").removesuffix(".weight"): found[name] for name, ours in names.items()}


def dense(run: Path) -> dict[str, np.ndarray]:
    """Site -> its update, from the files."""
    tensors = saved(run)
    told = {site["name"]: site["scale"] for site in read_json(run / "adapter" / "lorakit.json")["sites"]}
    return {
        name: scale * (tensors[f"{name}.B"].double() @ tensors[f"{name}.A"].double()).numpy()
        for name, scale in told.items()
    }


def logits(run: Path) -> torch.Tensor:
    return logits_of(lorakit.load(run))


def logits_of(ours) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = ours.model(**ours.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    return result


def test_the_size_of_signs_is_the_nearest_where_none_is_given(run: Path, coded: CompressResult, tmp_path: Path):
    nearest = lorakit.compress(run, method="compeft", density=0.3, out=tmp_path / "run")
    assert nearest.code.scale == nearest.code.nearest == coded.code.nearest != coded.code.scale
    assert read_json(tmp_path / "run" / "summary.json")["scale"] == "nearest"
    trained, start = (saved(run), lorakit.load(coded.out).adapted)
    for name, tensor in lorakit.load(tmp_path / "run").adapted.tensors().items():
        if name.endswith(".B"):  # which starts at zero: one size, of twice that of the code at a scale of 2
            ours, theirs = tensor.abs().max(), start.tensors()[name].abs().max()
            assert ours * 2 == pytest.approx(float(theirs * nearest.code.scale), rel=1e-5)
            assert trained[name].shape == tensor.shape


def test_svd_leaves_out_the_smallest_singular_values(run: Path, tmp_path: Path):
    result = lorakit.compress(run, rank=2, out=tmp_path / "run")
    before, after = dense(run), dense(tmp_path / "run")
    values = {name: np.linalg.svd(update, compute_uv=False) for name, update in before.items()}
    for name, update in after.items():
        assert np.linalg.matrix_rank(update, tol=1e-5 * values[name][0]) == 2
        lost = np.linalg.norm(update - before[name])
        assert lost == pytest.approx(np.sqrt(np.sum(values[name][2:] ** 2)), rel=1e-4)
    lost, whole = (np.sqrt(sum(np.sum(v[k:] ** 2) for v in values.values())) for k in (2, 0))
    assert result.error == pytest.approx(lost / whole, rel=1e-4)
    assert [(each.role, each.sites) for each in result.errors] == [("q", 2), ("v", 2)]
    adapter, head, files = result.sizes
    assert adapter.before == 2 * adapter.after == 4 * result.entries
    assert head.before == head.after > 0
    assert files.after == sum(path.stat().st_size for path in (tmp_path / "run" / "adapter").iterdir()) < files.before


def test_svd_by_energy_keeps_as_few_values_as_can_be(run: Path, tmp_path: Path):
    result = lorakit.compress(run, energy=0.9, out=tmp_path / "run")
    expected = []
    for update in dense(run).values():
        squares = np.linalg.svd(update, compute_uv=False) ** 2
        expected.append(next(k for k in range(1, RANK + 1) if squares[:k].sum() >= 0.9 * squares.sum()))
    told = read_json(tmp_path / "run" / "adapter" / "lorakit.json")["sites"]
    assert [site["rank"] for site in told] == expected
    assert result.ranks == (min(expected), max(expected))


def test_compeft_changes_its_start_by_signs_of_one_size(run: Path, coded: CompressResult):
    trained = saved(run)
    start = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    for name, tensor in start.items():
        if name.endswith(".A"):  # U(-1 / sqrt(in), 1 / sqrt(in)), from the site's own stream
            bound = tensor.shape[1] ** -0.5
            tensor.uniform_(-bound, bound, generator=generator(0, f"init/{name.removesuffix('.A')}"))
    changed = {name: trained[name] - start[name] for name in trained}
    together = torch.cat([change.flatten() for change in changed.values()])
    kept = int(0.3 * len(together))
    smallest = together.abs().sort(descending=True).values[kept - 1]
    theirs, ours = lorakit.load(run), lorakit.load(coded.out)
    state = theirs.adapted.tensors()
    for name, change in changed.items():
        signs = torch.where(change.abs() >= smallest, change.sign(), 0.0)
        found = ours.adapted.tensors()[name]
        torch.testing.assert_close(found, start[name] + 2.0 * together.std() * signs, rtol=1e-5, atol=1e-7)
        state[name].copy_(found)
    nearest = together.abs()[together.abs() >= smallest].mean() / together.std()
    assert coded.code == Code(kept, "drawn", 0, 2.0, pytest.approx(float(nearest), rel=1e-5))
    assert coded.entries == len(together)
    assert torch.equal(logits_of(theirs), logits_of(ours))
    assert not torch.equal(logits(run), logits_of(ours))


def test_compeft_is_small_and_a_run_for_every_command(run: Path, coded: CompressResult, tmp_path: Path):
    adapter, head, files = coded.sizes
    assert (
        adapter.after < coded.entries * 1.4 / 8 + 8 * 4 < adapter.before / 18
    )  # its entropy is 1.18 bits an entry; eight sizes
    assert head.before == head.after
    assert files.after < files.before
    assert lorakit.merge(coded.out, out=tmp_path / "merged").largest_difference < 1e-4
    assert coded.scores is not None
    scored = lorakit.evaluate(coded.out, task="custom")
    assert scored.scores[coded.scores.metric] == coded.scores.after
    assert lorakit.evaluate(run, task="custom").scores[coded.scores.metric] == coded.scores.before
    told = read_json(coded.out / "summary.json")
    assert (told["compressed"], told["method"], told["density"], told["scale"]) == (str(run), "compeft", 0.3, 2.0)
    assert len(told["digest"]) == 64
    assert {check.verdict for check in check_run(coded.out)} <= {"ok", "skipped"}


def test_a_tensor_that_there_is_not_is_not_counted_from_zero(coded: CompressResult, tmp_path: Path):
    other = Path(copytree(coded.out, tmp_path / "other"))
    told = other / "adapter" / "lorakit.json"
    told.write_text(told.read_text().replace('"from_zero": []', '"from_zero": [99]'))
    with pytest.raises(RunError, match="it counts tensor 99 from zero, and there are 8"):
        lorakit.load(other)


def test_compeft_counts_from_zero_what_is_nearer_to_it_than_to_a_draw(run: Path, tmp_path: Path):
    other = Path(copytree(run, tmp_path / "other"))
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace("\n  seed: 0", "\n  seed: 5"))
    result = lorakit.compress(other, method="compeft", density=0.5, scale=1.0, out=tmp_path / "run")
    found = lorakit.load(result.out).adapted.tensors()
    for name, tensor in saved(run).items():
        size = pytest.approx(float(tensor.std()), rel=1e-5)
        assert found[name].abs().unique().tolist() == [0.0, size]
        assert torch.equal(found[name].sign() * tensor.sign(), (found[name] != 0).float())
    assert result.code is not None
    assert result.code.from_zero == sum(name.endswith(".A") for name in saved(run)) == 4


def test_a_wrong_bit_is_noticed(coded: CompressResult, tmp_path: Path):
    copy = Path(copytree(coded.out, tmp_path / "copy"))
    file = copy / "adapter" / "lorakit_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="not the one that was written"):
        lorakit.load(copy)


def test_another_start_is_refused(coded: CompressResult, tmp_path: Path):
    copy = Path(copytree(coded.out, tmp_path / "copy"))
    told = read_json(copy / "adapter" / "lorakit.json")
    told["ternary"]["sample"][-1] += 0.01
    write_json(copy / "adapter" / "lorakit.json", told)
    with pytest.raises(RunError, match="is not what its recipe draws here"):
        lorakit.load(copy)


def test_a_training_cannot_start_from_it(coded: CompressResult):
    with pytest.raises(RecipeError, match="is coded"):
        lorakit.train(
            coded.out, [f"adapter.start={coded.out}", "training.max_steps=1"], run_dir=coded.out.with_name("on")
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"rank": 5}, "this run has no rank 5\n *valid: 1 to 4"),
        ({"rank": 0}, "a rank of 0 cannot be had"),
        ({}, "svd wants a rank or an energy"),
        ({"rank": 2, "energy": 0.5}, "svd wants a rank or an energy"),
        ({"energy": 1.5}, "energy 1.5 is no share"),
        ({"rank": 2, "density": 0.5}, "svd has no density"),
        ({"method": "compeft", "rank": 2}, "compeft has no rank"),
        ({"method": "compeft", "density": 0.0}, "density 0 is no share"),
        ({"method": "compeft", "scale": -1.0}, "a scale of -1 cannot be had"),
        ({"method": "zip"}, "there is no method 'zip'"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Path, tmp_path: Path, arguments, told):
    with pytest.raises(UsageError, match=told):
        lorakit.compress(run, **arguments, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_compressed_or_merged_is_refused(coded: CompressResult, tmp_path: Path):
    with pytest.raises(UsageError, match=r"is compressed already, from .*to-compress"):
        lorakit.compress(coded.out, rank=1)
    for file in ("lorakit.json", "config.json"):
        write_json(tmp_path / file, {})
    with pytest.raises(UsageError, match="is a merged folder"):
        lorakit.compress(tmp_path, rank=1)


def test_what_cannot_be_scored_is_not_written(run: Path, tmp_path: Path):
    copy = Path(copytree(run, tmp_path / "copy"))
    recipe = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(recipe.replace("validation.csv", "gone.csv"))
    with pytest.raises(LorakitError, match=r"gone\.csv"):
        lorakit.compress(copy, rank=2, score=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_beside_the_adapter_is_not_coded(bench: Bench, init: str):
    with pytest.raises(RunError, match=f"init '{init}' keeps its start beside the adapter"):
        start_of(Path("run"), bench.load(f"adapter.init={init}", name=init).recipe)
