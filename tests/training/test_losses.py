"""The losses of classes are torch's and the paper's; a step's is the mean over its weights, however it is cut up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from support.runs import Bench
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lorakit.errors import RecipeError
from lorakit.recipe.schema import TrainingSection
from lorakit.tasks.batching import ROW_SCALE, Batch, Encoded
from lorakit.training.gradients import forward_backward
from lorakit.training.loader import TrainLoader
from lorakit.training.losses import ClassLoss, make_loss, row_scale
from lorakit.workflow.setup import assemble

WEIGHTS = np.array([0.5, 2.0, 7.0])
LOGITS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 0, 0, 1])


def made(weights: np.ndarray | None = None, **settings: str | float) -> ClassLoss:
    return make_loss(TrainingSection(**settings), weights, torch.device("cpu"))


def mean(loss: ClassLoss, weights: np.ndarray | None) -> torch.Tensor:
    """As a step makes it: the scaled sum by the number of rows."""
    scale = None if weights is None else torch.full((len(LABELS),), row_scale(weights, LABELS))
    return loss.summed(LOGITS, LABELS, scale) / len(LABELS)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs(weights: np.ndarray | None, smoothing: float):
    given = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    expected = nn.CrossEntropyLoss(weight=given, label_smoothing=smoothing)(LOGITS, LABELS)
    assert_close(mean(made(weights, label_smoothing=smoothing), weights), expected)


SETS = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 0]] * 3, dtype=torch.int8)


def mean_of_sets(weights: np.ndarray | None = None, **settings: str | float) -> torch.Tensor:
    loss = make_loss(TrainingSection(**settings), weights, torch.device("cpu"), multi_label=True)
    return loss.summed(LOGITS, SETS) / len(SETS)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_several_labels_is_torchs(weights: np.ndarray | None, smoothing: float):
    """The mean over rows and labels, as transformers has it for multi_label_classification."""
    given = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    smooth = SETS * (1 - smoothing) + smoothing / 2
    expected = nn.BCEWithLogitsLoss(pos_weight=given)(LOGITS, smooth.float())
    assert_close(mean_of_sets(weights, label_smoothing=smoothing), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_of_several_labels_is_the_papers(gamma: float):
    """FL = -alpha_t (1 - p_t)^gamma log p_t, p_t being that of what is true of each label; alpha of the ones alone."""
    p = LOGITS.double().sigmoid()
    right, alpha = torch.where(SETS.bool(), p, 1 - p), torch.where(SETS.bool(), torch.tensor(WEIGHTS), 1.0)
    expected = (-alpha * (1 - right) ** gamma * right.log()).mean()
    found = mean_of_sets(WEIGHTS, loss="focal", focal_gamma=gamma)
    assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_papers(weights: np.ndarray | None, gamma: float):
    """FL = -alpha_t (1 - p_t)^gamma log p_t, equation 5; with gamma = 0 it is cross-entropy."""
    right = LOGITS.double().softmax(-1)[torch.arange(len(LABELS)), LABELS]
    alpha = torch.tensor(np.ones(3) if weights is None else weights)[LABELS]
    expected = (-alpha * (1 - right) ** gamma * right.log()).sum() / alpha.sum()
    found = mean(made(weights, loss="focal", focal_gamma=gamma), weights)
    assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)
    if gamma == 0:
        assert_close(found, mean(made(weights), weights), rtol=1e-5, atol=1e-6)


def test_focal_has_a_slope_where_a_row_is_surely_right():
    logits = torch.tensor([[200.0, 0.0], [0.0, 1.0]], requires_grad=True)
    made(loss="focal", focal_gamma=0.5).summed(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0].abs().max() == 0 < logits.grad[1].abs().max()


def test_without_settings_the_loss_is_torchs_to_the_bit():
    assert torch.equal(made().summed(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, reduction="sum"))


LOSSES: list[tuple[tuple[str, ...], Callable[..., torch.Tensor]]] = [
    (("training.class_weights={happy: 3}",), lambda z, y, w: F.cross_entropy(z, y, torch.tensor([3.0, 1.0]))),
    (
        ("training.class_weights=balanced", "training.label_smoothing=0.1"),
        lambda z, y, w: F.cross_entropy(z, y, w, label_smoothing=0.1),
    ),
    (("training.class_weights=balanced", "training.micro_tokens=40"), lambda z, y, w: F.cross_entropy(z, y, w)),
    (("training.micro_tokens=1",), lambda z, y, w: F.cross_entropy(z, y)),
]


@pytest.mark.parametrize(("settings", "whole"), LOSSES)
def test_a_step_in_parts_has_the_gradient_of_torchs_weighted_mean(
    bench: Bench, tmp_path: Path, settings: tuple[str, ...], whole: Callable[..., torch.Tensor]
):
    """Two forward passes of one step, against one over all of its rows."""
    training = bench.prepare(
        tmp_path, *settings, "training.accumulate=2", "training.lr=1e-12", "training.clip=0", "adapter.dropout=0"
    )
    step_batch = next(training.loader.step_batches(0))
    assert len(step_batch.batches) == 2 or training.recipe.training.micro_tokens
    for batch in step_batch.batches:
        forward_backward(training, step_batch, batch)
    tensors = [tensor.parameter for tensor in training.adapted.trained()]
    seen = [parameter.grad for parameter in tensors]
    encoded, places = training.loader.encoded, training.loader.batches(0)[:2]
    batch = encoded.collate(places[0] + places[1])
    labels = batch.pop("labels")
    assert len(set(labels.tolist())) == 2
    weights = compute_class_weight("balanced", classes=np.arange(2), y=labels_of(encoded).numpy())
    loss = whole(training.adapted.model(**batch).logits, labels, torch.tensor(weights, dtype=torch.float32))
    for found, expected in zip(seen, torch.autograd.grad(loss, tensors), strict=True):
        assert found is not None
        assert_close(found, expected, rtol=1e-4, atol=1e-6)


def labels_of(encoded: Encoded) -> torch.Tensor:
    assert encoded.labels is not None
    return encoded.labels


def test_processes_divide_by_the_weights_of_the_whole_step(bench: Bench, tmp_path: Path):
    """Parts of a step on two processes have the scale of the step; what searches draw has that of each batch."""
    loader = bench.prepare(tmp_path, "training.class_weights={plain: 5}").loader
    weights = np.array([1.0, 5.0])
    whole = next(loader.step_batches(0))
    scale = whole.rows / weights[whole.batches[0]["labels"]].sum()
    for process in range(2):
        mine = TrainLoader(loader.encoded, loader.training, loader.seed, process, 2, weights=loader.weights)
        (batch,) = next(mine.step_batches(0)).batches
        assert len(batch["labels"]) == whole.rows / 2
        assert_close(batch[ROW_SCALE], torch.full((4,), scale, dtype=torch.float32))
    drawn: list[Batch] = [*loader.sample(3, torch.Generator()), *loader.first(2, torch.Generator())]
    for batch in drawn:
        expected = len(batch["labels"]) / weights[batch["labels"]].sum()
        assert_close(batch[ROW_SCALE], torch.full((len(batch["labels"]),), expected, dtype=torch.float32))


def test_searches_and_inits_score_by_the_loss_that_is_trained_on(bench: Bench, tmp_path: Path):
    training = bench.prepare(
        tmp_path, "training.class_weights={happy: 4}", "search.method=heterolora", "adapter.dropout=0"
    )
    (search,) = [hook for hook in training.hooks if hook.name == "search"]
    (batch,) = training.loader.sample(1, torch.Generator().manual_seed(0))
    inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", ROW_SCALE)}
    expected = F.cross_entropy(training.model(**inputs).logits, batch["labels"], torch.tensor([4.0, 1.0]))
    assert_close(search.allocator.context.loss(training.model, batch), expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "kind", "key", "what"),
    [
        (["training.class_weights={sad: 2}"], "one", "training.class_weights", "there is no label 'sad'"),
        (["training.class_weights=balanced"], "number", "training.class_weights", "is for classes"),
        (["training.loss=focal"], "number", "training.loss", "is for classes"),
        (["training.label_smoothing=0.1"], "number", "training.label_smoothing", "is for classes"),
    ],
)
def test_what_does_not_suit_the_task_is_refused(bench: Bench, settings: list[str], kind: str, key: str, what: str):
    with pytest.raises(RecipeError) as caught:
        assemble(bench.load(*settings, kind=kind))
    (problem,) = caught.value.problems
    assert problem.key == key
    assert what in problem.what
    assert problem.valid
    assert problem.where == "command line"
