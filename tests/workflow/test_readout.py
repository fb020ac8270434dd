"""``model.readout``: runs whose heads read other things than the family's go through everything; ``auto`` decides once."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.runs import SEARCH, StopAt, edited_json, records
from support.thinned import thinned
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.artifacts.readout_file import read_choice
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, LorakitError, RecipeError, RunError, UsageError
from lorakit.tasks import linear_probe
from lorakit.workflow import readout as deciding
from lorakit.workflow.frozen_features import training_features
from lorakit.workflow.readout import decide, settle_readout
from lorakit.workflow.setup import adapt, assemble, only_sites_see_tokens

TEXTS = ["a happy film", "what a sad and long night it was"]
AUTO = "model.readout=auto"
SHORT = "training.max_steps=4"


@pytest.fixture(autouse=True, scope="module")
def two_folds():
    """What is decided over folds is as well decided over few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_probe, "FOLDS", 2)
        yield


@pytest.mark.parametrize(("readout", "kind"), thinned([("cls", "one"), ("layers", "one"), ("pair", "pair")], 3))
def test_a_run_with_a_head_of_its_own_goes_through_everything(bench, tmp_path, readout, kind):
    texts = list(zip(TEXTS, TEXTS[::-1], strict=True)) if kind == "pair" else TEXTS
    options = [f"model.readout={readout}", "model.head_start=fitted", SHORT]
    result = bench.train(*options, kind=kind, run_dir=tmp_path / "run")
    chances = lorakit.load(result.run_dir).predict_proba(texts)
    assert lorakit.evaluate(result.run_dir).scores == pytest.approx(result.last)
    merged = lorakit.merge(result.run_dir)
    assert not merged.plain
    (why,) = merged.closed
    assert why.startswith("its head would not read the")
    assert lorakit.load(merged.out).predict_proba(texts) == pytest.approx(chances, abs=1e-5)
    with pytest.raises((ValueError, OSError, KeyError)):
        AutoModelForSequenceClassification.from_pretrained(merged.out)
    with pytest.raises(RunError, match=r"the head reads the .* \(model.readout\)"):
        lorakit.export(result.run_dir)


@pytest.fixture(scope="module")
def still(bench):
    """Four steps on four layers, without dropout in the adapters."""
    return bench.train("model.readout=layers", SHORT, "adapter.dropout=0", name="still").run_dir


@pytest.mark.parametrize(
    ("option", "within"),
    thinned([("training.gradient_checkpointing=true", 1e-6), ("training.precision=bf16", 0.05)], 2),
)
def test_layers_that_are_recomputed_or_of_half_precision_are_read_too(bench, tmp_path, still, option, within):
    other = bench.train("model.readout=layers", SHORT, "adapter.dropout=0", option, run_dir=tmp_path / "other").run_dir
    ours, theirs = (lorakit.load(run).predict_proba(TEXTS)[0] for run in (still, other))
    assert theirs == pytest.approx(ours, abs=within)


def test_runs_whose_heads_read_other_things_are_not_combined(bench, tmp_path):
    runs = [
        bench.train("training.max_steps=1", f"model.readout={readout}", run_dir=tmp_path / readout).run_dir
        for readout in ("own", "mean")
    ]
    with pytest.raises(LorakitError, match=r"model\.readout"):
        lorakit.combine(runs, out=tmp_path / "both")


def test_runs_that_read_long_texts_in_other_ways_are_not_combined(bench, tmp_path):
    runs = [
        bench.train("training.max_steps=1", f"task.long={long}", run_dir=tmp_path / long).run_dir
        for long in ("truncate", "windows")
    ]
    with pytest.raises(LorakitError, match=r"task\.long of this run is windows and mean, and of .*truncate"):
        lorakit.combine(runs, out=tmp_path / "both")


@pytest.mark.parametrize(
    ("readout", "alone"), [("own", True), ("cls", True), ("mean", False), ("layers", False), ("pair", False)]
)
def test_the_other_tokens_of_the_last_layer_are_computed_where_they_are_read(bench, readout, alone):
    assert only_sites_see_tokens(assemble(bench.load(f"model.readout={readout}", kind="pair"))) == alone


# -- auto ------------------------------------------------------------------------------------------------------------


TIGHT = 1e-9  # how long fits go on: what they come to is then the same, wherever they began


def folds_by_hand(features, labels):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, tol=TIGHT))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    grid = {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]}
    return -GridSearchCV(model, grid, scoring="neg_log_loss", cv=folds).fit(features, labels).best_score_


@pytest.mark.parametrize(
    ("family", "kind", "names"),
    [
        pytest.param("bert", "one", {"own", "cls", "mean", "layers"}, marks=pytest.mark.slow),
        ("bert", "pair", {"own", "cls", "mean", "layers", "pair"}),
        pytest.param("llama", "one", {"own", "mean", "layers"}, marks=pytest.mark.slow),
        pytest.param("llama", "pair", {"own", "mean", "layers"}, marks=pytest.mark.slow),
    ],
)
def test_the_lowest_loss_over_folds_decides(bench, family, kind, names, monkeypatch):
    monkeypatch.setattr(linear_probe, "TOLERANCE", TIGHT)
    monkeypatch.setattr(linear_probe, "FOLDS", 5)
    over_folds = linear_probe.over_folds  # in numbers of 64 bits, as where fits of 32 end depends on the processor
    monkeypatch.setattr(linear_probe, "over_folds", lambda x, *rest: over_folds(x.astype(np.float64), *rest))
    parts = assemble(bench.load(AUTO, family=family, kind=kind))
    choice = decide(parts)
    labels = np.asarray(parts.data.splits["train"]["label"])
    expected = {name: folds_by_hand(features.astype(np.float64), labels) for name, features in parts.features.items()}
    assert choice.losses.keys() == names
    assert choice.losses == pytest.approx(expected, rel=1e-4)
    assert choice.chosen == min(expected, key=expected.get)
    assert (choice.measure, choice.rows) == ("log-loss", 45)


@pytest.mark.parametrize("option", ["training.freeze_below=1", "training.cuda_graphs=true"])
def test_pairs_are_not_compared_where_rows_are_wanted_whole(bench, option):
    assert deciding.candidates(assemble(bench.load(AUTO, option, kind="pair"))) == ["own", "cls", "mean", "layers"]
    key, _, _ = option.partition("=")
    with pytest.raises(RecipeError, match=rf"{key}: .*, and model\.readout: pair .* takes them apart"):
        bench.load("model.readout=pair", option, kind="pair")


def test_pairs_are_read_as_wholes_or_apart_but_not_in_windows(bench):
    with pytest.raises(RecipeError, match=r"task\.long: is for single texts"):
        bench.load("model.readout=pair", "task.long=windows", kind="pair")


def test_one_text_has_no_other_to_be_compared_with(bench, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="the rows of train have one") as caught:
        assemble(bench.load("model.readout=pair"))
    (problem,) = caught.value.problems
    assert (problem.key, problem.valid) == ("model.readout", "own, cls, mean, layers, auto")
    run = bench.train("model.readout=pair", "training.max_steps=1", kind="pair", run_dir=tmp_path / "run").run_dir
    merged = lorakit.merge(run).out
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(bench.data()))
    with pytest.raises(UsageError, match="head compares the two texts of a row, and the rows of sst2 have one"):
        lorakit.evaluate(model=merged, task="sst2", split="validation")


@pytest.mark.parametrize("family", [pytest.param("bert", marks=pytest.mark.slow), "roberta"])
def test_the_seed_decides_nothing(bench, family):
    """RoBERTa draws a layer before its outputs, whose features the run's own seed must not change here."""
    first, second = (decide(assemble(bench.load(AUTO, f"run.seed={seed}", family=family))) for seed in (0, 5))
    assert first == second


@pytest.mark.parametrize("method", ["full", "bitfit"])
def test_what_is_no_longer_read_does_not_train(bench, method):
    """BERT's pooler, which has a weight and a bias of the model's own."""
    loaded = bench.load(AUTO, f"adapter.method={method}", "adapter.dropout=0")
    decided, parts, choice = settle_readout(loaded, assemble(loaded))
    assert choice.chosen != "own"
    told = assemble(decided)
    assert (parts.sites, parts.budget) == (told.sites, told.budget)
    assert adapt(parts).adapter_parameters() == told.budget.parameters


@pytest.fixture(scope="module")
def decided(bench):
    """A run whose read-out was found."""
    return bench.train(AUTO, "model.head_start=fitted", SHORT, name="decided")


@pytest.mark.usefixtures("unrendered")
def test_a_run_says_what_was_found_and_never_looks_again(bench, decided, monkeypatch):
    run = Run(decided.run_dir)
    chosen = lorakit.load_recipe(run.recipe).recipe.model.readout
    assert chosen == decided.readout.chosen != "auto"
    assert read_choice(run) == decided.readout
    assert run.summary()["readout"]["losses"] == decided.readout.losses
    monkeypatch.setattr(deciding, "decide", lambda parts: pytest.fail("it was decided before"))
    assert lorakit.evaluate(run.path).scores == pytest.approx(decided.last)
    assert f"found before the training: {chosen}, by log-loss" in str(lorakit.report(run.path).to_dict())


def test_it_is_the_run_of_the_recipe_that_says_what_was_found(bench, decided, tmp_path):
    told = bench.train(
        f"model.readout={decided.readout.chosen}", "model.head_start=fitted", SHORT, run_dir=tmp_path / "told"
    )
    ours, theirs = records(decided.run_dir), records(told.run_dir)
    assert theirs["summary"].pop("readout") is None
    ours["summary"].pop("readout")
    for each in (ours, theirs):
        each["summary"].pop("name")
    assert ours == theirs


def test_a_stopped_run_goes_on_with_what_it_decided(bench, decided, tmp_path, monkeypatch):
    options = [AUTO, "model.head_start=fitted", SHORT]
    with pytest.raises(Interrupted):
        bench.train(*options, run_dir=tmp_path / "part", name="decided", hooks=[StopAt(2)])
    monkeypatch.setattr(deciding, "decide", lambda parts: pytest.fail("it was decided before"))
    bench.train(*options, run_dir=tmp_path / "part", name="decided", resume=True)
    assert records(tmp_path / "part") == records(decided.run_dir)


def test_a_search_before_a_training_decides_it_for_the_training(bench, tmp_path):
    lorakit.search(bench.load(AUTO, "model.head_start=fitted", *SEARCH, "search.enable=0.5"), emit=tmp_path / "a.yaml")
    model = lorakit.load_recipe(tmp_path / "a.yaml").recipe.model
    assert (model.readout, model.head_start) == (decide(assemble(bench.load(AUTO))).chosen, "fitted")


def test_a_trained_head_is_read_as_it_was_trained(bench, decided, tmp_path):
    own = bench.train(SHORT, run_dir=tmp_path / "own").run_dir
    folder = lorakit.merge(own, out=tmp_path / "folder").out
    loaded = bench.load(AUTO)
    again = replace(loaded, recipe=replace(loaded.recipe, model=replace(loaded.recipe.model, name=str(folder))))
    choice = decide(assemble(again))
    assert (choice.chosen, choice.losses) == ("own", {})
    assert "the trained head" in str(choice)
    started = decide(assemble(bench.load(AUTO, f"adapter.start={decided.run_dir}")))
    assert started.chosen == decided.readout.chosen


def test_too_few_rows_decide_for_the_familys_own(bench, tmp_path):
    parts = assemble(bench.load(AUTO, "task.max_train_rows=2"))
    parts.data.splits["train"] = parts.data.splits["train"].select([0])
    choice = decide(parts)
    assert (choice.chosen, choice.note) == ("own", "there are too few training rows to compare others with it")


def test_the_losses_are_told_before(bench):
    for kind, told, passes in (("one", "layers", "one forward pass"), ("pair", "layers, pair", "two forward passes")):
        plan = lorakit.plan(bench.load(AUTO, kind=kind))
        (note,) = [note for note in plan.notes if "what the head reads" in note]
        assert f"between own, cls, mean, {told}:" in note
        assert f"({passes} over them" in note


def test_candidates_that_are_the_familys_own_are_left_out(bench, monkeypatch):
    parts = assemble(bench.load(AUTO))
    features = dict(training_features(parts, "own", "cls", "mean", "layers"))
    parts.features["cls"] = features["own"].copy()
    assert "cls" not in decide(parts).losses


def test_broken_records_are_named(decided, tmp_path):
    run = shutil.copytree(decided.run_dir, tmp_path / "run")
    with edited_json(run / "readout.json") as record:
        record["chosen"] = "tails"
    with pytest.raises(RunError, match=r"readout\.json.*no read-out 'tails'"):
        read_choice(Run(run))


def test_glora_decides_nothing(bench):
    with pytest.raises(RecipeError, match=r"model\.readout: is decided in one training"):
        bench.load(AUTO, "search.method=glora", "adapter.method=glora", "adapter.shortcuts=[]")


# -- runs and merged folders of an older lorakit ----------------------------------------------------------------------


def test_runs_and_merged_folders_of_old_are_read_as_they_were(bench, tmp_path):
    run = bench.train("model.readout=mean", "model.head_start=fitted", SHORT, run_dir=tmp_path / "run").run_dir
    chances = lorakit.load(run).predict_proba(TEXTS)
    assert "mean_head.weight" in str(load_file(next((run / "adapter").glob("*.safetensors"))).keys())
    recipe = (run / "recipe.yaml").read_text()
    old = recipe.replace("  readout: mean\n", "  pooling: mean\n").replace("  head: null\n", "  head: probe\n")
    old = old.replace("  head_start: fitted\n", "")
    assert "readout" not in old
    assert "head_start" not in old
    (run / "recipe.yaml").write_text(old)
    assert lorakit.load(run).predict_proba(TEXTS) == pytest.approx(chances)
    merged = lorakit.merge(run).out
    with edited_json(merged / "lorakit.json") as record:
        record["pooling"] = record.pop("readout")
    assert lorakit.load(merged).predict_proba(TEXTS) == pytest.approx(chances, abs=1e-5)
    with edited_json(merged / "lorakit.json") as record:
        record["pooling"] = "default"
    with pytest.raises(RecipeError, match="reads the mean of all tokens"):
        lorakit.load(merged)


def test_a_training_goes_on_from_a_merged_head(bench, tmp_path, still):
    merged = lorakit.merge(still, out=tmp_path / "merged").out
    loaded = bench.load("model.readout=layers")
    again = replace(loaded, recipe=replace(loaded.recipe, model=replace(loaded.recipe.model, name=str(merged))))
    parts = assemble(again)
    assert parts.backbone.head.kept
    saved = load_file(next((still / "adapter").glob("*.safetensors")))
    (key,) = [key for key in saved if key.endswith("layers_head.weight")]
    assert torch.equal(parts.backbone.model.layers_head.weight, saved[key])
    assert json.loads((merged / "lorakit.json").read_text())["readout"] == "layers"
