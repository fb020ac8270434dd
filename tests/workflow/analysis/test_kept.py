"""``lorakit analyze --others``: what probes of a tiny model's features get right, worked out again by scikit-learn and scipy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from support.pages import read_page
from support.runs import Bench, make_rows, write_rows
from transformers import BertModel

import lorakit
from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.provenance import DATA, NOT_SHARED
from lorakit.artifacts.run import Run
from lorakit.errors import DataError, UsageError
from lorakit.recipe.load import load_recipe
from lorakit.reporting.analysis.drawings import drawings
from lorakit.reporting.analysis.records import Kept, RunAnalysis, TaskKept
from lorakit.reporting.analysis.tables import tables
from lorakit.reporting.analysis.words import facts, pair_words
from lorakit.tasks.task import TaskData
from lorakit.workflow.analysis import kept
from lorakit.workflow.analysis.analyze import AnalysisResult, Looked, beside
from lorakit.workflow.analysis.drift import without_adapters
from lorakit.workflow.analysis.likeness import INPUTS, SiteDirections
from lorakit.workflow.analysis.probed import Probed, probed, same_task
from lorakit.workflow.parts import load_data
from lorakit.workflow.restore import RestoredRun, restore_run
from lorakit.workflow.setup import assemble

ROWS, STRENGTH = 40, 0.1


@pytest.fixture(scope="module", autouse=True)
def cheap():
    """No figures, and probes of one strength: looking for it takes twenty fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lorakit.workflow.analysis.analyze.drawings", lambda runs, pairs: [])
        patch.setattr(kept, "answers", partial(kept.answers, strength=STRENGTH))
        yield


@pytest.fixture(scope="module")
def lora(finished, tmp_path_factory) -> Path:
    """A copy of the finished run, whose head reads BERT's pooler."""
    return Path(shutil.copytree(finished.run_dir, tmp_path_factory.mktemp("kept") / "lora"))


@pytest.fixture(scope="module")
def length(bench: Bench) -> Path:
    """Another task: whether a text is long; 12 of its 120 texts are held out."""
    path = bench.folder / "length.csv"
    rows = make_rows(120, seed=7)
    write_rows(path, [{"text": row["sentence"], "label": "l" if "long" in row["moods"] else "s"} for row in rows])
    return path


@pytest.fixture(scope="module")
def told(lora, length) -> AnalysisResult:
    return lorakit.analyze(lora, rows=0, others=[length], probe_rows=ROWS)


def kept_in(result: AnalysisResult) -> Kept:
    assert result.runs[0].kept is not None
    return result.runs[0].kept


@torch.no_grad()
def pooled(model: torch.nn.Module, tokenizer, texts: list[str]) -> np.ndarray:
    """What BERT's own classifier reads of each text alone."""
    rows = [
        model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).pooler_output for text in texts
    ]
    return torch.cat(rows).double().numpy()


def right(fitted: np.ndarray, labels: np.ndarray, held: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Which held-out rows logistic regression on scaled features gets right (scikit-learn)."""
    scaler, model = StandardScaler().fit(fitted), LogisticRegression(C=STRENGTH, max_iter=1000, tol=1e-6)
    return model.fit(scaler.transform(fitted), labels).predict(scaler.transform(held)) == references


def drawn(rows, number: int):
    """At most so many rows, the same in every run."""
    places = (
        np.sort(np.random.default_rng(4).permutation(len(rows))[:number]) if len(rows) > number else range(len(rows))
    )
    return rows.select(places)


def test_probes_are_logistic_regression_on_what_the_head_reads(told, lora, length, tiny):
    restored = restore_run(lora, None)
    plain, tokenizer = BertModel.from_pretrained(tiny("bert")).eval(), restored.parts.backbone.tokenizer
    datas = [restored.parts.data, load_data(load_recipe(length).recipe)]
    assert [(task.name, task.own) for task in kept_in(told).tasks] == [("train", True), ("length", False)]
    for task, data in zip(kept_in(told).tasks, datas, strict=True):
        train, held = (drawn(data.splits[name], ROWS) for name in ("train", "validation"))
        labels, references = (np.array(rows["label"]) for rows in (train, held))
        before, after = (
            right(pooled(model, tokenizer, train["text"]), labels, pooled(model, tokenizer, held["text"]), references)
            for model in (plain, restored.adapted.model.base_model)
        )
        assert (task.train_rows, task.rows) == (len(train), len(held)) == (ROWS, {"train": 30, "length": 12}[task.name])
        assert (task.before, task.after) == pytest.approx((before.mean(), after.mean()))
        gaps = after.astype(float) - before
        assert task.change.mean == pytest.approx(gaps.mean())
        half = 1.96 * gaps.std() / len(gaps) ** 0.5
        assert (task.change.low, task.change.high) == pytest.approx(
            (gaps.mean() - half, gaps.mean() + half), abs=1.5 / len(gaps)
        )
        assert task.majority == pytest.approx(np.mean(references == np.bincount(labels).argmax()))
        assert task.over_majority.mean == pytest.approx(task.before - task.majority)
        assert task.repeated == np.isin(held["text"], train["text"]).sum()
        assert not task.own or task.trained_on == 0


def test_random_updates_have_the_norm_and_rank_of_what_they_replace(told, lora):
    adapted, sites = restore_run(lora, None, with_data=False).adapted, told.runs[0].sites
    with without_adapters(adapted):
        ones = [adapted.model.get_submodule(site.name)(torch.eye(site.shape[1])) for site in sites]
        with kept.random_instead(adapted, sites):
            moved = [adapted.model.get_submodule(site.name)(torch.eye(site.shape[1])) for site in sites]
        again = [adapted.model.get_submodule(site.name)(torch.eye(site.shape[1])) for site in sites]
    for site, before, after, left in zip(sites, ones, moved, again, strict=True):
        update = (after - before).T.double()
        assert float(update.norm()) == pytest.approx(site.norm, rel=1e-4)
        assert torch.linalg.matrix_rank(update, rtol=1e-3) == site.rank == 4
        assert torch.equal(before, left)
    assert all(task.random is not None for task in kept_in(told).tasks)


def test_json_and_the_page_have_what_was_probed(told):
    (run,) = json.loads(json.dumps(told.to_dict()))["runs"]
    assert run["kept"]["tasks"][1]["change"]["mean"] == kept_in(told).tasks[1].change.mean
    text = " ".join(read_page(told.page).text)
    assert "On length a probe gets" in text
    assert "lora, train (its own)" in text


def test_an_update_of_zero_changes_no_answer(lora, length, tmp_path):
    still = Path(shutil.copytree(lora, tmp_path / "still"))
    for path in still.glob("*/adapter_model.safetensors"):
        tensors = {name: 0 * each if "lora_B" in name else each for name, each in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    found = kept_in(lorakit.analyze(still, rows=0, others=[length], probe_rows=ROWS))
    assert found.without_random == "the update is zero"
    for task in found.tasks:
        assert (task.after, task.change.ties, task.change.low, task.change.high) == (task.before, task.rows, 0, 0)
        assert task.random is None


@pytest.fixture(scope="module")
def twice(lora, bench) -> tuple[AnalysisResult, list[int]]:
    """The run beside itself, its own task among the others and its texts with other labels; and the rows of every pass."""
    folder, passes, read = lora.parent, [], kept.read_features
    own = f'task: {{name: custom, train: "{bench.data()}/train.csv", text: sentence, label: label}}'
    (folder / "own.yaml").write_text(f"model: {{name: m}}\n{own}\n")
    rows = make_rows(45, seed=45)
    write_rows(folder / "odd.csv", [{"text": row["sentence"], "label": "odd" in row["moods"]} for row in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "read_features", lambda *given: passes.append(len(given[1])) or read(*given))
        others = [folder / "own.yaml", folder / "odd.csv"]
        return lorakit.analyze(lora, f"again={lora}", rows=0, others=others, probe_rows=ROWS), passes


def test_the_backbone_is_probed_once_for_all_runs(twice):
    result, passes = twice
    # Two tasks, rows to fit on and to score, with the update, without it and with a random one; the second run not without it.
    assert len(passes) == 2 * 2 * 3 + 2 * 2 * 2
    first, second = (run.kept for run in result.runs)
    assert first == second
    beside = [(task.name, task.change.ties == task.change.n) for task in result.pairs[0].tasks]
    assert beside == [("train", True), ("odd", True)]


def test_runs_without_a_site_in_common_have_their_probes_side_by_side():
    def looked(name: str, sites: list[str], right: list[float]) -> Looked:
        run = RunAnalysis(Path(name), name, "lora", "last", 0, [], {}, [], [], [])
        directions = {site: SiteDirections(0, "q", {INPUTS: torch.eye(4)[:, :1]}) for site in sites}
        return Looked(run, directions, {("mood", "rows"): right} if right else {})

    for second in (["v"], []):
        pair = beside(looked("a", ["q"], [0, 1, 1]), looked("b", second, [0, 0, 1]))
        assert pair is not None
        assert (pair.sides, [task.change.mean for task in pair.tasks]) == ([], [pytest.approx(-1 / 3)])
        assert pair_words(pair)[0] == "They have no site in common whose directions could be compared."
        assert ([*drawings([], [pair])], tables([], [pair]), facts([], [pair])) == ([], [], [])
    assert beside(looked("a", ["q"], []), looked("b", [], [])) is None
    with pytest.raises(UsageError, match="no site in common"):
        beside(looked("a", ["q"], []), looked("b", ["v"], []))


def test_its_own_task_is_not_another_one(twice):
    found = kept_in(twice[0])
    assert found.same == ["train"]
    assert [(task.name, task.own) for task in found.tasks] == [("train", True), ("odd", False)]


def test_its_own_texts_under_other_labels_are_said_to_be_the_runs(twice):
    own, odd = kept_in(twice[0]).tasks
    assert (own.trained_on, odd.trained_on, odd.fitted_on) == (0, odd.rows, odd.train_rows)


def test_held_out_texts_that_the_run_was_trained_on_are_counted_where_they_are_known(lora, tmp_path):
    restored = restore_run(lora, None, head=True)
    own = probed(restored.parts.data, ROWS)
    held, trained = own.digests[1], kept.trained_texts(restored)
    assert trained is not None
    counted = partial(own_scores, restored, own)
    assert counted(np.append(trained, held[:3])).trained_on == sum(held.tolist().count(each) for each in {*held[:3]})
    passed_on = Path(shutil.copytree(lora, tmp_path / "passed_on"))
    told = json.loads((passed_on / DATA).read_text())
    (passed_on / DATA).write_text(json.dumps(told | {NOT_SHARED: True}))
    unknown = kept.trained_texts(replace(restored, run=Run(passed_on)))
    assert unknown is counted(unknown).trained_on is None


def own_scores(restored: RestoredRun, own: Probed, trained: np.ndarray | None) -> TaskKept:
    """What always answering the first class comes to on the run's own task."""
    answers = np.zeros(len(own.held), np.int64)
    return kept.scored(kept.Reader.of(restored, own), answers, answers, None, trained, own=True)


def test_no_row_is_both_fitted_on_and_scored(length):
    data = load_data(load_recipe(length).recipe)
    few, all_rows = probed(data, ROWS), probed(data, 1000)
    assert (len(few.train), len(all_rows.train), len(all_rows.held)) == (ROWS, 108, 12)
    assert not {*all_rows.train["idx"]} & {*all_rows.held["idx"]}
    assert {*few.train["idx"]} <= {*all_rows.train["idx"]}


def test_other_columns_of_its_own_file_are_another_task(bench):
    recipe = bench.load()
    own, first = (load_data(each.recipe) for each in (recipe, load_recipe(recipe, ["task.text=first"])))
    assert same_task(own, own)
    assert not same_task(own, first)


def test_parts_of_the_head_read_as_they_started(lora):
    restored = restore_run(lora, None, head=True)
    start = assemble(restored.loaded, restored.parts.data).backbone.model
    trained = {name: restored.adapted.model.get_parameter(name).clone() for name in restored.head}
    assert set(restored.head) == {"classifier.weight", "classifier.bias"}
    with kept.started_head(restored.adapted, restored.head):
        for name, value in trained.items():
            assert torch.equal(restored.adapted.model.get_parameter(name), start.get_parameter(name))
            assert not torch.equal(value, start.get_parameter(name))
    assert all(torch.equal(restored.adapted.model.get_parameter(name), value) for name, value in trained.items())


def test_single_texts_are_not_read_by_a_comparison_of_two(bench, length, tmp_path):
    loaded = bench.load("model.readout=pair", kind="pair")
    parts = assemble(loaded)
    restored = RestoredRun(Run(tmp_path), loaded, parts, AdaptedModel(parts.backbone, {}, None), "last")
    single, pair = probed(load_data(load_recipe(length).recipe), ROWS), probed(parts.data, ROWS)
    assert [kept.Reader.of(restored, task).readout for task in (single, pair)] == ["mean", "pair"]


def test_tasks_that_are_not_right_or_wrong_have_no_probe(bench):
    for kind, why in (("number", "predicts a number"), ("several", "any number of labels")):
        own, told = kept.own_task(TaskData(load_data(bench.load(kind=kind).recipe).task, {}, ""), ROWS)
        assert own is None
        assert why in told


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("", {}, UsageError, "--others: there is no task called 'nowhere'"),
        ("words,more\nx,y\nz,w\n", {}, DataError, "no column clearly holds the texts(.|\n)*lorakit copy .*own.yaml"),
        (
            "text,label\n" + "a fine sun,0.25\na warm joke,0.5\na good day,1.5\n" * 4,
            {},
            UsageError,
            "predicts a number",
        ),
        (
            "text,label\n" + "the sun is warm,a\nthe joke is good,b\n" * 9,
            {"probe_rows": 1},
            UsageError,
            "too few to fit",
        ),
        (
            "text,label\n" + "".join(f"the sun is warm {n},{'abc'[n % 3]}\n" for n in range(30)),
            {"probe_rows": 2},
            UsageError,
            "3 classes, and a probe would be fitted on 2 of its rows(.|\n)*--probe-rows",
        ),
    ],
)
def test_what_cannot_be_probed_is_refused(lora, tmp_path, text, options, error, message):
    named = "nowhere"
    if text:
        named = tmp_path / "given.csv"
        named.write_text(text)
    with pytest.raises(error, match=message):
        lorakit.analyze(lora, rows=0, others=[named], **options)


def test_options_that_belong_together(lora, length):
    with pytest.raises(UsageError, match="--probe-rows: is for other tasks, and none is named"):
        lorakit.analyze(lora, rows=0, probe_rows=40)
    with pytest.raises(UsageError, match=r"two tasks are called length(.|\n)*a copy of the file"):
        lorakit.analyze(lora, rows=0, others=[length, length])
