"""``lorakit eval --ranks``: one run at several sizes, its loss and scores against its adapter parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.artifacts.rank_curve_file import RankPoint, write_curve
from lorakit.result import Result
from lorakit.tasks.calibration import reliability
from lorakit.tasks.metrics import main_metric
from lorakit.training.evaluation import probabilities_of, score_logits
from lorakit.workflow.cut_to_rank import cut_to_rank, highest_rank, parameters_in, ranks_from
from lorakit.workflow.evaluate import choose_splits, wanted_splits
from lorakit.workflow.restore import open_trained, restore_run
from lorakit.workflow.same_data import check_same_data
from lorakit.workflow.trained import TrainedClassifier


@dataclass(frozen=True)
class RankCurve(Result):
    """A run at several ranks.

    Attributes:
        run: its folder.
        task: what people call its task.
        split: whose rows were scored.
        rows: how many.
        weights: the run's ``last`` or ``best`` ones.
        metric: the task's main one.
        points: the largest rank first: rank, adapter parameters, scores, and log-loss in nats, without a temperature.
        note: what these numbers may be used for.
    """

    run: Path
    task: str
    split: str
    rows: int
    weights: str
    metric: str
    points: list[RankPoint]
    note: str


def rank_curve(
    run: str | Path,
    ranks: str = "all",
    *,
    split: str | None = None,
    weights: str | None = None,
    offline: bool = False,
) -> RankCurve:
    """Score a run at several ranks, each cut from its trained adapter (``cut_to_rank``), and keep that for its report.

    Args:
        run: the run's folder.
        ranks: such as ``1,2,4``; or ``all``: the powers of two up to the highest that a site has, and that.
        split: which rows; the first validation split by default.
        weights: the ``last`` ones, or the ``best`` on the validation split; those that training.select says by default.
        offline: never touch the network.

    Returns:
        A point for each rank. Nothing is chosen by them; on the run's validation split they are written to ``rank_curve.json`` in its
        folder, where `lorakit report` finds them.

    Raises:
        UsageError: where there is no such run, split or rank, and for adapters without rank units.
        DataError: for data that cannot be used, or have changed.
        RunError: for a run that is not trained yet, or whose files are damaged.

    Example:
        >>> curve = lorakit.rank_curve("runs/demo-0", "1,2,4")                 # doctest: +SKIP
        >>> [(point.parameters, point.log_loss) for point in curve.points]     # doctest: +SKIP
    """
    path = Path(run)
    task = open_trained(path, weights)[0].task()
    wanted = wanted_splits(task, split)[:1]
    restored = restore_run(path, weights, offline=offline, splits=wanted)
    adapted, recipe, data = restored.adapted, restored.loaded.recipe, restored.parts.data
    chosen = choose_splits(data, split)[0]
    with restored.loaded.locating_errors():
        check_same_data(restored.run, data, [chosen])
    points = []
    for rank in ranks_from(ranks, highest_rank(adapted, str(path)), str(path)):
        cut_to_rank(adapted, rank, recipe.search.method, str(path))
        encoded, logits = TrainedClassifier(adapted, recipe, str(path)).logits(data, chosen)
        chances = probabilities_of(task, logits)
        loss = None
        if encoded.labels is not None and chances is not None and not task.multi_label:
            loss = reliability(chances, encoded.labels.numpy()).log_loss
        scores = score_logits(task, logits, encoded) if encoded.labels is not None else {}
        points.append(RankPoint(rank, parameters_in(adapted, rank), scores, loss))
    of_run = chosen in task.validation
    note = "no other training came between these points, and none of them is chosen"
    if of_run:
        restored.run.check_own()
        write_curve(restored.run, restored.weights, chosen, points)
        note += (
            "; the rows are the run's own validation rows: what is chosen by them looks better on them than on new ones"
        )
    return RankCurve(
        run=path,
        task=task.known_as,
        split=chosen,
        rows=len(encoded),
        weights=restored.weights,
        metric=main_metric(task),
        points=points,
        note=note,
    )
