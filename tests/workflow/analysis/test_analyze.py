"""``lorakit analyze`` on tiny trained runs, whose numbers are worked out again from the files, by numpy and scipy."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from support.models import TinyModels
from support.pages import loads_nothing, read_page
from support.runs import Bench, edited_json

import lorakit
from lorakit.artifacts.adapter_file import read_tensors
from lorakit.errors import DataError, RunError, UsageError
from lorakit.workflow.analysis.analyze import AnalysisResult, stem_of
from lorakit.workflow.analysis.updates import updates_of
from lorakit.workflow.train import TrainResult


@pytest.fixture(autouse=True)
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together and not written, which would take most of the time."""
    monkeypatch.setattr("lorakit.workflow.analysis.analyze.save", lambda figure, path: path)
    monkeypatch.setattr("lorakit.workflow.analysis.analyze.as_svg", lambda figure, salt: "<svg></svg>")


@pytest.fixture(scope="module")
def lora(finished: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, rank 4 with seed 0."""
    return Path(shutil.copytree(finished.run_dir, tmp_path_factory.mktemp("analyzed") / "lora"))


@pytest.fixture(scope="module")
def wider(bench: Bench) -> Path:
    """Rank 8 on one more role, seed 1."""
    return bench.train(
        "adapter.targets=[q,v,down]", "adapter.rank=8", "run.seed=1", "training.epochs=1", name="wider"
    ).run_dir


@pytest.fixture(scope="module")
def alone(lora: Path) -> AnalysisResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lorakit.workflow.analysis.analyze.save", lambda figure, path: path)
        patch.setattr("lorakit.workflow.analysis.analyze.as_svg", lambda figure, salt: "<svg></svg>")
        return lorakit.analyze(lora, rows=30)


def factors(run: Path, site: str, folder: str = "adapter") -> tuple[np.ndarray, np.ndarray]:
    """B and A as PEFT's file has them."""
    tensors = read_tensors(run / folder / "adapter_model.safetensors")
    return tuple(tensors[f"base_model.model.{site}.lora_{name}.weight"].double().numpy() for name in "BA")


def weight_of(tiny: TinyModels, site: str) -> np.ndarray:
    tensors = read_tensors(tiny("bert") / "model.safetensors")
    return tensors[f"{site.removeprefix('bert.')}.weight"].double().numpy()


def scale_of(run: Path, site: str) -> float:
    told = json.loads((run / "adapter" / "lorakit.json").read_text())["sites"]
    return next(each["scale"] for each in told if each["name"] == site)


def test_each_sites_numbers_are_those_of_its_factors(alone, lora, tiny):
    assert [(site.layer, site.role) for site in alone.runs[0].sites] == [(0, "q"), (0, "v"), (1, "q"), (1, "v")]
    for site in alone.runs[0].sites:
        (b, a), w = factors(lora, site.name), weight_of(tiny, site.name)
        dw = scale_of(lora, site.name) * b @ a
        u, s, vh = np.linalg.svd(dw)
        assert site.rank == site.directions == 4
        assert site.values == pytest.approx(s[:4].tolist())
        assert site.norm == pytest.approx(np.linalg.norm(dw))
        assert site.relative == pytest.approx(np.linalg.norm(dw) / np.linalg.norm(w))
        within = np.linalg.norm(u[:, :4].T @ w @ vh[:4].T)
        assert site.amplification == pytest.approx(np.linalg.norm(dw) / within)
        top = np.linalg.norm(np.linalg.svd(w, compute_uv=False)[:4])
        assert site.amplification_top == pytest.approx(np.linalg.norm(dw) / top)
        assert site.amplification_top < site.amplification


def test_magnitude_and_direction_of_every_point_that_is_kept(alone, lora, tiny):
    run = alone.runs[0]
    assert run.points in (["step 6", "last"], ["best", "last"])  # where step 6 is not the best one
    assert len(run.moved) == 4 * len(run.points)
    site, w = run.sites[0].name, weight_of(tiny, run.sites[0].name)
    checkpoint = read_tensors(lora / "checkpoints" / "step-6" / "model.safetensors")
    ba = [checkpoint[f"{site}.{name}"].double().numpy() for name in "BA"]
    points = {"step 6": ba, "best": ba, "last": factors(lora, site)}
    for point in (point for point in run.moved if point.name == site):
        b, a = points[point.when]
        after = w + scale_of(lora, site) * b @ a
        old, new = (np.linalg.norm(each, axis=1) for each in (w, after))
        assert point.magnitude == pytest.approx(np.abs(new - old).mean())
        assert point.direction == pytest.approx((1 - (w * after).sum(axis=1) / old / new).mean())
    directions, magnitudes = zip(*((point.direction, point.magnitude) for point in run.moved), strict=True)
    assert run.correlation == pytest.approx(np.corrcoef(directions, magnitudes)[0, 1])


def test_features_are_compared_layer_by_layer(alone):
    run = alone.runs[0]
    assert (run.rows, [layer.layer for layer in run.drift]) == (30, [0, 1])
    assert all(layer.chance < layer.cka < 1 for layer in run.drift)


def test_two_runs_side_by_side(lora, wider):
    told = lorakit.analyze(lora, wider, rows=0)
    (pair,) = told.pairs
    assert (len(pair.only_first), [name.rpartition("layer.")[2] for name in pair.only_second]) == (
        0,
        ["0.output.dense", "1.output.dense"],
    )
    assert [side.side for side in pair.sides] == ["A", "inputs", "outputs"]
    site = told.runs[0].sites[1].name
    (b4, a4), (b8, a8) = factors(lora, site), factors(wider, site)
    svds = [(np.linalg.svd(a4)[2].T, np.linalg.svd(a8)[2].T)]
    pairs = [np.linalg.svd(b @ a) for b, a in ((b4, a4), (b8, a8))]
    svds += [(pairs[0][2].T, pairs[1][2].T), (pairs[0][0], pairs[1][0])]
    for side, (ours, theirs) in zip(pair.sides, svds, strict=True):
        found = next(each for each in side.sites if each.name == site)
        assert found.directions == 4
        for count, value in ((1, found.first), (4, found.whole)):
            angles = subspace_angles(ours[:, :count], theirs[:, :count])
            assert value == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-6)
        assert (found.first_chance, found.whole_chance) == pytest.approx((1 / 32, 4 / 32))
        assert np.array(side.mean).shape == (4, 8)
    assert not pair.same_seed
    text = " ".join(read_page(told.page).text)
    assert "2 sites only wider-1 has: left out." in text


def test_a_run_beside_itself_is_alike_in_all(lora):
    (pair,) = lorakit.analyze(lora, f"again={lora}", rows=0).pairs
    for side in pair.sides:
        assert np.diag(side.mean) == pytest.approx(1)
    assert pair.same_seed


def test_the_page_says_what_and_beside_what(alone, lora):
    read = read_page(alone.page)
    assert alone.page == lora / "report" / "analysis.html"
    assert loads_nothing(read)
    assert read.tags["svg"] == len(alone.figures) == 6
    text = " ".join(read.text)
    for told in (
        "effective rank",
        "a random update of the same rank",
        "||dW|| is ",
        "Written by lorakit analyze.",
        "if random",
    ):
        assert told in text


def test_json_has_the_numbers_behind_the_page(alone):
    told = json.loads(json.dumps(alone.to_dict()))
    run = told["runs"][0]
    assert run["sites"][0]["amplification"] == alone.runs[0].sites[0].amplification
    assert run["correlation"] == alone.runs[0].correlation
    assert [entry["role"] for entry in run["correlations"]] == ["q", "v"]


def test_a_search_shows_what_is_on_and_the_ends_alone(searched, tmp_path):
    run = Path(shutil.copytree(searched.run_dir, tmp_path / "searched"))
    (told,) = lorakit.analyze(run, rows=0).runs
    sites = json.loads((run / "adapter" / "lorakit.json").read_text())["sites"]
    on = {site["name"] for site in sites if site["state"] != "dropped"}
    assert {site.name for site in told.sites} <= on
    assert set(told.points) <= {"best", "last"}
    assert any("the search's own state" in note for note in told.notes)
    shortcuts = [site for site in told.sites if site.role in ("res1", "mid")]
    assert shortcuts
    assert all(site.amplification is site.relative is None for site in shortcuts)


def test_nothing_to_look_at_is_told_with_its_reasons(lora, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lorakit.workflow.analysis.updates.reason_without", lambda adapter, site: "a bottleneck is not linear"
    )
    with pytest.raises(UsageError, match="there is nothing to look at: a bottleneck is not linear") as raised:
        lorakit.analyze(lora, rows=0)
    assert "--rows 256" in str(raised.value)
    (told,) = lorakit.analyze(lora, rows=8).runs
    assert (len(told.drift), told.rows, told.sites, told.moved, told.points) == (2, 8, [], [], [])


class LastAlone:
    """Of the first run all updates but the last, of the next one that alone."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, adapted):
        found = list(updates_of(adapted))
        self.asked += 1
        return found[:-1] if self.asked == 1 else found[-1:]


def test_runs_that_do_not_go_together(lora, tmp_path, monkeypatch):
    other = Path(shutil.copytree(lora, tmp_path / "other"))
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(re.sub("quantization: .*", "quantization: int4", recipe))
    with pytest.raises(UsageError, match=r"model\.quantization is int4 here, and none in"):
        lorakit.analyze(lora, other)
    monkeypatch.setattr("lorakit.workflow.analysis.analyze.updates_of", LastAlone())
    with pytest.raises(
        UsageError, match=r"the two runs update no site in common: lora has .*0.*query and again has .*1.*value"
    ):
        lorakit.analyze(lora, f"again={lora}", rows=0)
    with pytest.raises(UsageError, match="two runs are called"):
        lorakit.analyze(lora, lora)
    with pytest.raises(UsageError, match="is not a run folder"):
        lorakit.analyze(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="-1 rows cannot be looked at"):
        lorakit.analyze(lora, rows=-1)


def test_a_damaged_checkpoint_is_no_point_and_told(lora, tmp_path):
    copied = Path(shutil.copytree(lora, tmp_path / "damaged"))
    summary = json.loads((copied / "summary.json").read_text())
    for step in (7, summary["steps"]):
        (copied / "checkpoints" / f"step-{step}").mkdir(exist_ok=True)
        (copied / "checkpoints" / f"step-{step}" / "model.safetensors").write_bytes(b"half of one")
    (run,) = lorakit.analyze(copied, rows=0).runs
    assert "step 7" not in run.points
    assert "Damaged, and left out: step 7." in run.notes


def test_any_two_rows_are_alike(lora):
    run = lorakit.analyze(lora, rows=2).runs[0]
    assert (run.drift, run.rows, run.without_drift) == ([], 0, "of fewer than 3 rows CKA is 1, whatever they are")


def test_files_have_the_other_runs_names_where_these_can_be_a_files_name():
    assert stem_of([]) == "analysis"
    assert stem_of(["wider-1", "dora"]) == "analysis-wider-1-dora"
    odd = {stem_of(names) for names in (["a/b"], ["../../x"], ["a\nb"], [f"run-of-many-{n}" for n in range(20)])}
    assert len(odd) == 4
    assert all(re.fullmatch("analysis-[0-9a-f]{8}", stem) for stem in odd)


def test_an_adapter_that_holds_what_quantising_lost_is_refused(lora, tmp_path):
    copied = Path(shutil.copytree(lora, tmp_path / "copied"))
    with edited_json(copied / "summary.json") as told:
        told["correction"] = 4
    with pytest.raises(UsageError, match="holds what quantising the weights lost"):
        lorakit.analyze(copied)


def test_unfinished_runs_and_changed_rows(lora, tmp_path):
    copied = Path(shutil.copytree(lora, tmp_path / "copied"))
    with edited_json(copied / "data.json") as told:
        told["splits"]["validation"]["digest"] = "another"
    with pytest.raises(DataError, match="has changed since the run"):
        lorakit.analyze(copied, rows=8)
    assert lorakit.analyze(copied, rows=0).runs[0].without_drift == "no rows were asked for"
    (copied / "summary.json").unlink()
    with pytest.raises(RunError, match="the run is not finished"):
        lorakit.analyze(copied)
