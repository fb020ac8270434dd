"""What an analysis finds, site by site, layer by layer, run by run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from lorakit.reporting.analysis.measures import correlation
from lorakit.reporting.grid import role_position
from lorakit.reporting.stats import Difference

LAST, BEST = "last", "best"
T = TypeVar("T")


@dataclass(frozen=True)
class SiteUpdate:
    """One site's update dW (out x in), and what chance gives beside it.

    Attributes:
        name, layer, role: where it is; layer -1: in none.
        shape: (out, in).
        rank: singular values above rounding.
        directions: k, how many of the first ones are looked at.
        values: the first k singular values, largest first; chance_values: of a Gaussian product of this shape and rank, scaled to it.
        norm: ||dW||_F.
        leading_norm: of its first k directions.
        effective_rank: Roy and Vetterli's, and chance_rank that of the Gaussian product.
        weight_norm: ||W||_F, None where nothing is beneath, as with a shortcut; in_own, in_top, in_random: ||U^T W V||_F in dW's first k
            directions, in W's own, in random ones.
    """

    name: str
    layer: int
    role: str
    shape: tuple[int, int]
    rank: int
    directions: int
    values: list[float]
    chance_values: list[float]
    norm: float
    leading_norm: float
    effective_rank: float
    chance_rank: float
    weight_norm: float | None = None
    in_own: float | None = None
    in_top: float | None = None
    in_random: float | None = None

    @property
    def relative(self) -> float | None:
        """||dW||_F / ||W||_F."""
        return self.norm / self.weight_norm if self.weight_norm else None

    @property
    def amplification(self) -> float | None:
        """||dW||_F / ||U^T W V||_F in dW's own directions."""
        return self.factor(self.in_own)

    @property
    def amplification_top(self) -> float | None:
        """The same in W's own first directions: what it would be if dW stressed what W stresses most."""
        return self.factor(self.in_top)

    @property
    def amplification_random(self) -> float | None:
        """The same in random directions: what it would be if dW had nothing to do with W."""
        return self.factor(self.in_random)

    def factor(self, within: float | None) -> float | None:
        """How much larger the first k directions of dW are than W within some."""
        return self.leading_norm / within if within else None


@dataclass(frozen=True)
class Moved:
    """How far a site's weight is from the pretrained one at one point of a training, and how far a random update of its rank and norm is.

    when: a checkpoint's ``step N``, ``best`` or ``last``; magnitude: dM; direction: dD (``measures.change``).
    """

    name: str
    layer: int
    role: str
    when: str
    magnitude: float
    direction: float
    random_magnitude: float
    random_direction: float


@dataclass(frozen=True)
class LayerDrift:
    """Linear CKA of a layer's output before and after, and of rows that do not belong together."""

    layer: int
    cka: float
    chance: float


@dataclass(frozen=True)
class TaskKept:
    """What a linear probe of the features gets right of a task's held-out rows, without a run's update and with it.

    Attributes:
        name: the task; own: whether the run learnt it; classes: how many it has.
        readout: what of the states is read; other_readout: whether the head reads something else, which the task's rows have not.
        split: which rows are held out; rows: how many of them are scored; train_rows: how many training rows the probe is fitted on.
        majority: the share of the held-out rows that have the training rows' most common class; over_majority: how much more the probe gets
            right before; unknown: how many have a class that no training row has.
        repeated: held-out rows whose text is among the training rows'; trained_on: those that the run was trained on; fitted_on: training
            rows whose text it was trained on; None where nothing tells.
        before: the share that is right without the update, after: with it, random: with a Gaussian one of its norms and ranks.
        change: after less before, row by row, random_change: random less before, beside_random: after less random, each with a 95 %
            interval over the held-out rows; None where there is no random one.
    """

    name: str
    own: bool
    classes: int
    readout: str
    other_readout: bool
    split: str
    train_rows: int
    rows: int
    majority: float
    over_majority: Difference
    unknown: int
    repeated: int
    trained_on: int | None
    fitted_on: int | None
    before: float
    after: float
    change: Difference
    random: float | None
    random_change: Difference | None
    beside_random: Difference | None


@dataclass(frozen=True)
class Kept:
    """What a run's update does to its own task and to others.

    Attributes:
        tasks: those that were probed, its own the first.
        without: why there are none.
        without_own: why its own is not among them, where another could be.
        same: the names of others that are its own.
        without_random: why there is no random update beside what was learnt.
        random_left: what of that the random one leaves out.
    """

    tasks: list[TaskKept]
    without: str
    without_own: str
    same: list[str]
    without_random: str
    random_left: list[str]


@dataclass(frozen=True)
class RunAnalysis:
    """One run.

    Attributes:
        run: its folder; name: what it is called here; method: its adapter method; weights: ``last`` or ``best``; seed: its own.
        sites: those with an update of a matrix, in model order.
        left_out: reason -> the names of the sites that have none.
        notes: what to know of these numbers.
        moved: of every site with a weight, at every point that is kept.
        points: the names of these points, in order.
        drift: of every layer, empty where it was not looked at; rows: how many were; without_drift: why there is none.
        kept: of its own task and others, None where no other one was named.
        score: of these weights on the run's validation rows, empty where there is none; warnings: what says that it came to little.
    """

    run: Path
    name: str
    method: str
    weights: str
    seed: int
    sites: list[SiteUpdate]
    left_out: dict[str, list[str]]
    notes: list[str]
    moved: list[Moved]
    points: list[str]
    drift: list[LayerDrift] = field(default_factory=list)
    rows: int = 0
    without_drift: str = ""
    kept: Kept | None = None
    score: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def correlation(self) -> float | None:
        """Pearson's of dM and dD over sites and points."""
        return correlated(self.moved)

    @property
    def random_correlation(self) -> float | None:
        """The same of the random updates."""
        return correlated(self.moved, random=True)

    def correlations(self) -> list[tuple[str, int, float | None, float | None]]:
        """(role, points, Pearson's, that of random updates) of each role, as the paper has them by kind of matrix."""
        return [
            (role, len(own), correlated(own), correlated(own, random=True))
            for role, own in by_role(self.moved, lambda point: point.role)
        ]


@dataclass(frozen=True)
class Likeness:
    """How alike the directions of two runs' updates are, on one side.

    Attributes:
        side: ``A`` (the rows of LoRA's A, as in the paper), ``inputs`` or ``outputs`` (dW's right and left singular vectors).
        mean: phi(i, j) averaged over the sites that have i and j directions; chance: of random subspaces, over the same sites.
        sites: each site's own.
    """

    side: str
    mean: list[list[float]]
    chance: list[list[float]]
    sites: list[SiteLikeness]


@dataclass(frozen=True)
class SiteLikeness:
    """Of one site: phi(1, 1) and phi(k, k) for k directions, the fewer of the two runs', each with that of random subspaces."""

    name: str
    layer: int
    role: str
    directions: int
    first: float
    first_chance: float
    whole: float
    whole_chance: float


@dataclass(frozen=True)
class TaskBeside:
    """A task's held-out rows that probes get right with the second run's update less with the first's, row by row."""

    name: str
    change: Difference


@dataclass(frozen=True)
class Pair:
    """Two runs over one backbone; sites only one of them has are named. sides: none where no site has directions in both; same_seed:
    whether their adapters started alike; tasks: those that were probed with both on the same rows.
    """

    first: str
    second: str
    sides: list[Likeness]
    only_first: list[str]
    only_second: list[str]
    same_seed: bool
    tasks: list[TaskBeside] = field(default_factory=list)


def correlated(points: Sequence[Moved], *, random: bool = False) -> float | None:
    """Pearson's of dM and dD."""
    if random:
        return correlation([each.random_direction for each in points], [each.random_magnitude for each in points])
    return correlation([each.direction for each in points], [each.magnitude for each in points])


def by_role(items: Iterable[T], role_of: Callable[[T], str]) -> list[tuple[str, list[T]]]:
    """Role -> its items, in the order in which a block computes them."""
    listed = list(items)
    roles = sorted({role_of(item) for item in listed}, key=role_position)
    return [(role, [item for item in listed if role_of(item) == role]) for role in roles]


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None of none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
