"""What a run's folder has recorded, checked as it is read: its sites, its search, how far it came."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from lorakit.adapters.switching import ON
from lorakit.artifacts.adapter_file import OURS, told_adapter
from lorakit.artifacts.rank_curve_file import RankPoint, read_curve
from lorakit.artifacts.readout_file import as_choice
from lorakit.artifacts.records import number, read_record, reading
from lorakit.artifacts.run import Run
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.reporting.history import History, SiteRecord, named_sites, read_history, without_search
from lorakit.reporting.summary import Outcome
from lorakit.reporting.tables import averaged_words, duration, frozen_words
from lorakit.tasks.calibration import Calibration, as_calibration
from lorakit.tasks.metrics import main_metric
from lorakit.tasks.task import higher_is_better
from lorakit.training.rate import FoundRate, told

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RecordedRun:
    """A run as its files tell it."""

    run: Run
    loaded: LoadedRecipe
    metrics: Records
    history: History
    outcome: Outcome
    curve: Sequence[RankPoint] = ()


def read_run(run: Run) -> RecordedRun:
    """All of it. Raises RunError, or RecipeError, that names the file that is missing or broken."""
    loaded = load_recipe(run.recipe)
    metrics = read_records(run.path / "metrics.jsonl", run.metrics, check_metric)
    timeline = read_records(run.path / "timeline.jsonl", run.timeline, check_tick)
    history = search_history(run, timeline, loaded.recipe.adapter.rank or 1)
    return RecordedRun(run, loaded, metrics, history, read_outcome(run, metrics, history), read_curve(run))


def read_records(path: Path, read: Callable[[], Records], check: Callable[[Mapping[str, Any]], None]) -> Records:
    """The records of a .jsonl file, each looked at."""
    with reading(path, "readable"):
        found = read()
    for line, record in enumerate(found, 1):
        with reading(Path(f"{path}:{line}"), "a record of this file"):
            check(record)
    return found


def check_metric(record: Mapping[str, Any]) -> None:
    """A loss with its step, or the scores of a split."""
    check_numbers(record["step"], record["epoch"])
    if "scores" in record:
        check_numbers(*record["scores"].values())
        str(record["split"])
    else:
        check_numbers(record["loss"])


def check_tick(record: Mapping[str, Any]) -> None:
    """What a tick tells of sites; the numbers beside them are read with the history."""
    measured = record.get("measured") or {}
    check_numbers(*(record["scores"] or {}).values(), *(record.get("ranks") or {}).values(), *measured.values())
    if not all(isinstance(name, str) for name in record["on"]):
        raise TypeError("on is no list of site names")


def check_numbers(*values: float) -> None:
    """Refuse what is no number."""
    for value in values:
        if isinstance(value, (bool, str)) or not math.isfinite(value):
            raise ValueError(f"{value!r} is no number")


def search_history(run: Run, timeline: Records, rank: int) -> History:
    """The search's history over the sites that the adapter has; a run that wrote none yet, over those its ticks name."""
    folder = next((run.weights(which) for which in ("last", "best") if run.weights(which).is_dir()), None)
    if folder is None:
        sites, on = named_sites(timeline, rank), set()
    else:
        path = folder / OURS
        told = told_adapter(folder)
        with reading(path, "the description of an adapter"):
            ranks = timeline[-1].get("ranks") or {} if timeline else {}
            sites = with_costs(told["sites"], ranks)
            on = {site["name"] for site in told["sites"] if site["state"] == ON}
    if not timeline:
        return without_search(sites, on)
    with reading(run.path / "timeline.jsonl", f"the diary of this adapter's search ({len(sites)} sites)"):
        return read_history(timeline, sites)


def with_costs(sites: Sequence[Mapping[str, Any]], ranks: Mapping[str, int]) -> list[SiteRecord]:
    """The sites with what each costs at its full rank, from what its live rank units cost.

    ranks: of the last tick, for files that do not say which units are live.

    A site with no unit left says nothing of its cost: it is taken to cost what sites of its role do, or else most sites.
    """
    each: dict[str, float] = {}
    by_role: dict[str, list[float]] = {}
    for site in sites:
        if site["parameters"]:
            units = site.get("units")
            live = len(units) if units else ranks.get(site["name"]) or site["rank"] or 1
            each[site["name"]] = site["parameters"] / live
            by_role.setdefault(site["role"], []).append(each[site["name"]])
    every = list(each.values()) or [0.0]
    found = []
    for site in sites:
        rank = int(site["rank"]) or 1
        unit = each.get(site["name"]) or median(by_role.get(site["role"]) or every)
        found.append(SiteRecord(site["name"], int(site["layer"]), str(site["role"]), rank, round(unit * rank)))
    return found


def read_outcome(run: Run, metrics: Records, history: History) -> Outcome:
    """What the run came to; where it has no summary yet, as far as its records go."""
    task = run.task()
    metric = main_metric(task)
    if not run.finished and not metrics and run.weights("last").is_dir():
        return Outcome(task.name, metric, finished=True, origin="put together by a search")
    if not run.finished:
        return replace(outcome_so_far(task.name, metric, metrics, history), rate=rate_words(run))
    path = run.path / "summary.json"
    summary = run.checked_summary()
    with reading(path, "a run's summary"):
        return Outcome(
            task=str(summary["task"]),
            metric=str(summary["metric"]),
            finished=True,
            origin=tell_origin(summary),
            last=dict(summary["last"]),
            best=dict(summary["best"]),
            last_step=int(summary["steps"]),
            best_step=int(summary.get("best_step", 0)),
            steps=int(summary["steps"]),
            epochs=float(summary["epochs"]),
            seconds=float(summary["seconds"]),
            search_seconds=float(summary.get("search_seconds", 0.0)),
            adapter_parameters=int(summary["adapter_parameters"]),
            head_parameters=int(summary["head_parameters"]),
            warnings=list(summary.get("warnings", [])),
            stopped=str(summary.get("stopped", "")),
            readout=str(as_choice(summary["readout"], path)) if summary.get("readout") else "",
            averaged=averaged_words(read_numbers(summary, "averaged")),
            frozen=frozen_words(read_numbers(summary, "frozen")),
            selected=str(summary.get("selected", "last")),
            calibration=read_calibration(summary),
            rate=rate_words(run),
            labels=task.labels,
            confusion=read_confusion(summary.get("confusion"), len(task.labels)),
            by_label=read_by_label(summary.get("by_label"), len(task.labels)),
        )


def read_numbers(summary: Mapping[str, Any], key: str) -> dict[str, float]:
    """The numbers by name that a summary has under ``key``, empty where there are none."""
    return {name: number(value, f"{key}.{name}", low=0) for name, value in dict(summary.get(key) or {}).items()}


def rate_words(run: Run) -> str:
    """How its learning rate was found, in a sentence; nothing where the recipe gives one."""
    if not run.rate.is_file():
        return ""
    what = "the record of how a learning rate was found"
    record = read_record(run.rate, what)
    with reading(run.rate, what):
        found = FoundRate(**{name: value for name, value in record.items() if name != "seconds"})
        check_numbers(found.lr, *found.rates, *(fall for fall in found.falls if fall is not None))
        return f"Its learning rate, {found.lr:.3g}, was found in {duration(record['seconds'])}: {told(found)}."


def read_calibration(summary: Mapping[str, Any]) -> Calibration | None:
    """The calibration of the weights that the run uses, None where there is none."""
    record = dict(summary.get("calibration") or {}).get(summary.get("selected", "last"))
    if record is None:
        return None
    found = as_calibration(record)
    check_numbers(found.temperature, found.before.ece, found.after.ece)
    return found


def read_confusion(counts: Any, classes: int) -> list[list[int]]:
    """A confusion matrix as it was written, empty where there is none."""
    if counts is None:
        return []
    if not isinstance(counts, list) or [len(line) for line in counts] != [classes] * classes:
        raise ValueError(f"confusion is no table of {classes} by {classes}")
    return [[int(number(count, "confusion", low=0, whole=True)) for count in line] for line in counts]


def read_by_label(tables: Any, labels: int) -> list[list[list[int]]]:
    """A confusion matrix of two by two for each label as it was written, empty where there is none."""
    if tables is None:
        return []
    if not isinstance(tables, list) or len(tables) != labels:
        raise ValueError(f"by_label has no table for each of {labels} labels")
    return [read_confusion(counts, 2) for counts in tables]


def tell_origin(summary: Mapping[str, Any]) -> str:
    """Where a run comes from that was never trained."""
    if "imported" in summary:
        return f"imported from {summary['imported']}"
    if "combined" in summary:
        return f"combined from {', '.join(map(str, summary['combined']))} by {summary.get('method', 'some method')}"
    if "compressed" in summary:
        return f"compressed from {summary['compressed']} by {summary.get('method', 'some method')}"
    if "quantised" in summary:
        return f"quantised from {summary['quantised']} by {summary.get('method', 'some method')}"
    return ""


def outcome_so_far(task: str, metric: str, metrics: Records, history: History) -> Outcome:
    """The newest and the best of the scores that were written until now."""
    scored = [record for record in metrics if "scores" in record and metric in record["scores"]]
    sign = 1 if higher_is_better(metric) else -1
    none: Mapping[str, Any] = {"scores": {}, "step": 0}
    best = max(scored, key=lambda record: sign * record["scores"][metric], default=none)
    last = scored[-1] if scored else none
    far = max(
        [(record["step"], record["epoch"]) for record in metrics] + [(tick.step, tick.epoch) for tick in history.ticks],
        default=(0, 0.0),
    )
    return Outcome(
        task=task,
        metric=metric,
        finished=False,
        last=dict(last["scores"]),
        best=dict(best["scores"]),
        last_step=int(last["step"]),
        best_step=int(best["step"]),
        steps=int(far[0]),
        epochs=float(far[1]),
        search_seconds=sum(tick.seconds for tick in history.ticks),
    )
