"""``lorakit report``: a run's folder becomes one page with its figures, tables and a summary in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import write_text
from lorakit.artifacts.rank_curve_file import RankPoint
from lorakit.artifacts.run import Run, open_run
from lorakit.artifacts.standing import GENERATIONS
from lorakit.errors import UsageError, command_line
from lorakit.reporting.budget_shares import (
    Share,
    ValueAgainstQuery,
    by_kind,
    by_layer,
    by_role,
    by_third,
    value_against_query,
)
from lorakit.reporting.figures import as_svg, save
from lorakit.reporting.history import History
from lorakit.reporting.page import Numbers, Page, Picture, render
from lorakit.reporting.page_figures import curve_drawing, drawings
from lorakit.reporting.page_tables import class_table, curve_table, tables
from lorakit.reporting.stability import Stability, measure_stability
from lorakit.reporting.summary import Outcome, Passage, passages
from lorakit.reporting.tables import duration, percent
from lorakit.result import Result
from lorakit.workflow.records import RecordedRun, read_run

PAGE = "report.html"


@dataclass(frozen=True)
class ReportResult(Result):
    """The numbers behind the page, and where everything lies.

    Attributes:
        run: the run's folder.
        page: the page, which needs nothing but itself.
        figures: its figures as files.
        outcome: scores, time and parameters.
        search: the name of the allocator, or ``none``.
        proxy: the name of the score; empty without a search.
        ticks: the search's ticks: step, epoch, sites on, parameters and budget of each.
        roles: what each role got of the budget.
        layers: the same of each layer.
        thirds: of the lowest, middle and highest layers.
        kinds: of projections and shortcuts.
        value_against_query: how the two compare; None where not both have sites.
        settling: what changed between ticks.
        summary: the page in plain words.
        rank_curve: the run at several ranks, where `lorakit eval --ranks` scored it.
    """

    run: Path
    page: Path
    figures: list[Path]
    outcome: Outcome
    search: str
    proxy: str
    ticks: list[dict[str, Any]]
    roles: list[Share]
    layers: list[Share]
    thirds: list[Share]
    kinds: list[Share]
    value_against_query: ValueAgainstQuery | None
    settling: Stability
    summary: list[Passage]
    rank_curve: list[RankPoint]

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON; every share with its lift."""
        groups = {
            name: [asdict(share) | {"lift": share.lift} for share in getattr(self, name)]
            for name in ("roles", "layers", "thirds", "kinds")
        }
        return super().to_dict() | groups


def report(run: str | Path) -> ReportResult:
    """Write a run's page, ``report/report.html`` in its folder, and its figures.

    Args:
        run: the run's folder, finished or not.

    Returns:
        The numbers behind the page, its words, and where everything lies.

    Raises:
        UsageError: where there is no run.
        RunError: where a file of it is missing or broken.

    Example:
        >>> told = lorakit.report("runs/demo-0")                               # doctest: +SKIP
        >>> for passage in told.summary:                                       # doctest: +SKIP
        ...     print(passage.title, *passage.sentences)
    """
    folder = open_run(run)
    if (folder.path / GENERATIONS).exists():
        hint = command_line("report", folder.path / "found")
        raise UsageError("is an evolutionary search, not a run", where=str(run), hint=hint)
    folder.check_own()
    recorded = read_run(folder)
    history, stability = recorded.history, measure_stability(recorded.history)
    words = passages(recorded.outcome, history, stability)
    paths, pictures = [], []
    figures = [
        *drawings(recorded.metrics, history, stability, recorded.outcome),
        *curve_drawing(recorded.curve, recorded.outcome.metric),
    ]
    for drawing in figures:
        paths.append(save(drawing.figure, folder.report / f"{drawing.name}.png"))
        svg = as_svg(drawing.figure, drawing.name)
        pictures.append(Picture(drawing.title, svg, drawing.alt, drawing.caption))
    page = folder.report / PAGE
    write_text(
        page,
        render(
            lay_out(
                recorded,
                words,
                [
                    *pictures,
                    *class_table(recorded.outcome),
                    *curve_table(recorded.curve),
                    *tables(history, stability),
                ],
            )
        ),
    )
    searched = bool(history.ticks)
    return ReportResult(
        run=folder.path,
        page=page,
        figures=paths,
        outcome=recorded.outcome,
        search=recorded.loaded.recipe.search.method,
        proxy=history.ticks[-1].proxy if searched else "",
        ticks=[asdict(tick) | {"sites_on": on} for tick, on in zip(history.ticks, history.sites_on, strict=False)],
        roles=by_role(history),
        layers=by_layer(history),
        thirds=by_third(history),
        kinds=by_kind(history),
        value_against_query=value_against_query(history),
        settling=stability,
        summary=words,
        rank_curve=list(recorded.curve),
    )


def lay_out(recorded: RecordedRun, words: list[Passage], parts: Sequence[Picture | Numbers]) -> Page:
    """The page with its head."""
    recipe, outcome = recorded.loaded.recipe, recorded.outcome
    search = f"search {recipe.search.method}" if recipe.search.method != "none" else "no search"
    if recorded.history.ticks and recorded.history.scored:
        search += f" by {recorded.history.ticks[-1].proxy}"
    return Page(
        title=f"{recorded.run.path.resolve().name}: {outcome.task}",
        subtitle=f"{recipe.model.name}, adapter method {recipe.adapter.method}, {search}, seed {recipe.run.seed}",
        facts=key_facts(outcome, recorded.history),
        passages=words,
        parts=parts,
        fold=[("Recipe", recipe_text(recorded.run))],
        notice="" if outcome.finished else "This run is not finished. The page shows what it has recorded until now.",
    )


def key_facts(outcome: Outcome, history: History) -> list[tuple[str, str]]:
    """The numbers at the top."""
    pairs = [(f"last {name}", f"{value:.4f}") for name, value in outcome.last.items() if name == outcome.metric]
    pairs += [(f"best {name}", f"{value:.4f}") for name, value in outcome.best.items() if name == outcome.metric]
    if outcome.adapter_parameters is not None:
        pairs.append(("adapter parameters", f"{outcome.adapter_parameters:,}"))
    if outcome.head_parameters is not None:
        pairs.append(("head parameters", f"{outcome.head_parameters:,}"))
    if history.sites:
        pairs.append(("sites on", f"{history.sites_on[-1]} of {len(history.sites)}"))
    if history.ticks:
        pairs.append(("search ticks", str(len(history.ticks))))
    if outcome.seconds:
        pairs.append(("time", duration(outcome.seconds)))
    if outcome.seconds and outcome.search_seconds:
        pairs.append(("search share of the time", percent(outcome.search_seconds / outcome.seconds)))
    return pairs


def recipe_text(run: Run) -> str:
    """The resolved recipe as it was written."""
    return run.recipe.read_text(encoding="utf-8", errors="replace")
