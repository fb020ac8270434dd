"""The proof of what is written, against a model that was changed by a known amount, and the places where it may go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import Bench

from lorakit.errors import RunError, UsageError
from lorakit.workflow.restore import restore_run
from lorakit.workflow.train import TrainResult
from lorakit.workflow.verify import check_target, predict_reference

SHIFT = 100.0


@pytest.mark.parametrize("kind", ["one", "number"])
def test_a_shifted_output_is_seen(bench: Bench, finished: TrainResult, kind: str) -> None:
    """The head's bias moves one logit of every row, so far that every row has its label."""
    run = finished if kind == "one" else bench.train(kind=kind)
    reference = predict_reference(restore_run(run.run_dir, "last"))
    same = restore_run(run.run_dir, "last").adapted
    proof = reference.prove(same.model, 0.0, what="folder", where=run.run_dir)
    assert (proof.largest_difference, proof.flips, proof.rows) == (0.0, 0, len(reference.logits))
    assert proof.largest_logit == np.abs(reference.logits).max()
    with torch.no_grad():
        same.model.get_parameter("classifier.bias")[0] += SHIFT
    proof = reference.prove(same.model, 2 * SHIFT, what="folder", where=run.run_dir)
    assert proof.largest_difference == pytest.approx(SHIFT, rel=1e-5)
    assert proof.flips == (0 if kind == "number" else int((reference.logits.argmax(axis=1) != 0).sum()))
    with pytest.raises(
        RunError, match=rf"the folder is another model: its logits differ by {SHIFT:.3g} from the run's"
    ) as caught:
        reference.prove(same.model, SHIFT / 2, what="folder", where=run.run_dir)
    assert caught.value.problems[0].where == str(run.run_dir)


def test_a_place_is_free_or_holds_one_of_the_kind(tmp_path: Path) -> None:
    place = tmp_path / "out"
    check_target(place)
    place.mkdir()
    for options in ({}, {"kind": "a model", "is_kind": Path.is_dir}):
        with pytest.raises(UsageError, match="exists already") as caught:
            check_target(place, **options)
        assert ("--force" in caught.value.problems[0].hint) == bool(options)
    check_target(place, force=True, kind="a model", is_kind=Path.is_dir)
    with pytest.raises(UsageError, match="is not a model, and is not replaced"):
        check_target(place, force=True, kind="a model", is_kind=Path.is_file)
