"""A run's temperature: where it comes from, who uses it, and that it changes nothing but probabilities."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from support.runs import Bench, StopAt, edited_json, make_rows, records
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.errors import Interrupted, RunError
from lorakit.tasks import calibration
from lorakit.tasks.calibration import probabilities
from lorakit.workflow.predict import Classifier
from lorakit.workflow.train import TrainResult

SETTINGS = ("training.lr=0.02", "training.epochs=4", "evaluation.every_steps=6", "adapter.dropout=0")
TEXTS = [row["sentence"] for row in make_rows(20, seed=4)]


@pytest.fixture(scope="module", autouse=True)
def few_rows_are_enough() -> Iterator[None]:
    with mock.patch.object(calibration, "FEWEST", 10):
        yield


@pytest.fixture(scope="module")
def run(bench: Bench) -> TrainResult:
    return bench.train(*SETTINGS)


def plain(run: Path, weights: str = "last") -> Classifier:
    """The same without its temperature."""
    classifier = lorakit.load(run, weights=weights)
    classifier.temperature = 1.0
    return classifier


def test_it_is_fitted_for_both_weights_on_the_validation_rows(bench: Bench, run: TrainResult):
    written = read_json(run.run_dir / "calibration.json")
    assert written == read_json(run.run_dir / "summary.json")["calibration"]
    assert set(written) == {"last", "best"}
    assert run.best_step < run.steps
    for weights in ("last", "best"):
        found = run.calibration[weights]
        scored = lorakit.evaluate(run.run_dir, weights=weights)
        assert found.rows == scored.rows == 30
        assert scored.trust is not None
        assert scored.trust.temperature == found.temperature == written[weights]["temperature"] != 1
        assert scored.trust.fitted_here
        for ours, theirs in ((scored.trust.used, found.after), (scored.trust.plain, found.before)):
            assert (ours.log_loss, ours.ece) == pytest.approx((theirs.log_loss, theirs.ece), abs=1e-5)
        assert found.after.log_loss < found.before.log_loss
    assert written["last"]["temperature"] != written["best"]["temperature"]


def test_a_run_on_weights_of_few_bits_has_its_own(run: TrainResult, tmp_path: Path):
    small = lorakit.quantize(run.run_dir, method="lqer", rank=4, out=tmp_path / "small").out
    scored = lorakit.evaluate(small)
    assert scored.trust is not None
    assert scored.trust.fitted_here
    assert scored.trust.temperature == read_json(small / "calibration.json")["last"]["temperature"] != 1
    assert scored.trust.used.log_loss < scored.trust.plain.log_loss


def test_nothing_else_changes(bench: Bench, run: TrainResult):
    without = bench.train(*SETTINGS, "evaluation.calibrate=false")
    assert not (without.run_dir / "calibration.json").exists()
    ours, theirs = records(run.run_dir), records(without.run_dir)
    assert theirs["summary"].pop("calibration") == {}
    assert ours["summary"].pop("calibration") != {}
    assert ours == theirs
    assert [a.label for a in lorakit.predict(run.run_dir, TEXTS)] == [
        a.label for a in lorakit.predict(without.run_dir, TEXTS)
    ]


def test_predictions_divide_logits_by_it(run: TrainResult):
    for weights in ("last", "best"):
        temperature = run.calibration[weights].temperature
        before = np.log(plain(run.run_dir, weights).predict_proba(TEXTS).astype(float))
        after = lorakit.load(run.run_dir, weights=weights).predict_proba(TEXTS)
        assert after == pytest.approx(probabilities(before, temperature), abs=1e-5)


def test_a_merged_folder_has_it_beside_its_weights(run: TrainResult, tmp_path: Path):
    merged = lorakit.merge(run.run_dir, out=tmp_path / "merged")
    assert merged.temperature == run.calibration["last"].temperature
    ours, theirs = (lorakit.load(where).predict_proba(TEXTS) for where in (run.run_dir, merged.out))
    assert theirs == pytest.approx(ours, abs=1e-4)
    model = AutoModelForSequenceClassification.from_pretrained(merged.out)
    inputs = lorakit.load(merged.out).tokenizer(TEXTS[:1], return_tensors="pt")
    logits = model(**inputs).logits.detach().numpy()
    assert probabilities(logits, merged.temperature)[0] == pytest.approx(ours[0], abs=1e-4)
    card = (lorakit.export(run.run_dir, out=tmp_path / "peft").out / "README.md").read_text(encoding="utf-8")
    assert f"logits divided by {merged.temperature:.6g}: lorakit does that, other libraries do not" in card


def test_an_interrupted_run_has_the_same(bench: Bench, run: TrainResult, tmp_path: Path):
    with pytest.raises(Interrupted):
        bench.train(*SETTINGS, hooks=[StopAt(15)], run_dir=tmp_path / "run")
    resumed = bench.train(*SETTINGS, run_dir=tmp_path / "run", resume=True)
    assert records(resumed.run_dir) == records(run.run_dir)
    assert read_json(resumed.run_dir / "calibration.json") == read_json(run.run_dir / "calibration.json")


def test_an_older_run_has_none(run: TrainResult, tmp_path: Path):
    shutil.copytree(run.run_dir, tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    assert lorakit.load(tmp_path / "run").temperature == 1
    trust = lorakit.evaluate(tmp_path / "run").trust
    assert trust is not None
    assert trust.used == trust.plain
    assert not trust.fitted_here
    assert trust.used.log_loss == pytest.approx(run.calibration["last"].before.log_loss, abs=1e-5)


@pytest.mark.parametrize("value", [0, -1, "1", None])
def test_a_broken_temperature_is_refused(run: TrainResult, tmp_path: Path, value: object):
    shutil.copytree(run.run_dir, tmp_path / "run")
    with edited_json(tmp_path / "run" / "calibration.json") as told:
        told["last"]["temperature"] = value
    with pytest.raises(RunError, match="temperature"):
        lorakit.load(tmp_path / "run")


def test_a_number_to_predict_has_none(bench: Bench):
    result = bench.train("training.max_steps=1", kind="number")
    assert result.calibration == {}
    assert not (result.run_dir / "calibration.json").exists()
