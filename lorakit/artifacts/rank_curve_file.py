"""rank_curve.json of a run: its scores at several ranks, as `lorakit eval --ranks` found them on its validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lorakit.artifacts.files import write_json
from lorakit.artifacts.records import number, read_record, reading
from lorakit.artifacts.run import Run

FILE = "rank_curve.json"


@dataclass(frozen=True)
class RankPoint:
    """A run cut to a rank: its adapter parameters without the head, its scores, its log-loss in nats where it has one."""

    rank: int
    parameters: int
    scores: dict[str, float]
    log_loss: float | None


def write_curve(run: Run, weights: str, split: str, points: Sequence[RankPoint]) -> None:
    """Keep the points, of these weights on this split; those of an earlier call are gone."""
    write_json(run.path / FILE, {"weights": weights, "split": split, "points": [asdict(point) for point in points]})


def read_curve(run: Run) -> list[RankPoint]:
    """The points that are kept, none where there is no file. RunError where it is broken."""
    path, what = run.path / FILE, "a run's scores at several ranks"
    if not path.is_file():
        return []
    record = read_record(path, what)
    with reading(path, what):
        return [
            RankPoint(
                rank=int(number(point["rank"], "rank", low=1, whole=True)),
                parameters=int(number(point["parameters"], "parameters", low=0, whole=True)),
                scores={str(name): number(value, name) for name, value in point["scores"].items()},
                log_loss=None if point["log_loss"] is None else number(point["log_loss"], "log_loss", low=0),
            )
            for point in record["points"]
        ]
