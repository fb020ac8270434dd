"""What ``lorakit doctor RUN`` looks at in a run's folder: does everything in it read, and does it tell one story."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from lorakit.artifacts import lock as locks
from lorakit.artifacts.adapter_file import OUR_TENSORS, OURS, PEFT_TENSORS, read_tensors, told_sites
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.artifacts.peft.layout import PREFIX
from lorakit.artifacts.run import Run, open_run
from lorakit.artifacts.standing import GENERATIONS, all_checkpoints
from lorakit.errors import RunError, command_line
from lorakit.recipe.load import load_recipe
from lorakit.reporting.tables import count
from lorakit.tasks.metrics import main_metric
from lorakit.training.checkpoint import intact
from lorakit.training.update import never_trained
from lorakit.workflow.doctor.environment import FAILED, SKIPPED, WARNING, Check, Finding, check
from lorakit.workflow.glora.evolve import FOUND, SUPERNET
from lorakit.workflow.records import check_metric, check_numbers, check_tick, read_records, tell_origin
from lorakit.workflow.restore import restore_run

Look = Callable[[Run], Finding]


def check_run(path: Path) -> list[Check]:
    """All rows of a run; of a search of GLoRA's, those of its supernet and of what it found. UsageError where there is neither."""
    run = open_run(path)
    if (path / SUPERNET).is_dir():
        parts = [Run(path / name) for name in (SUPERNET, FOUND) if (path / name).is_dir()]
        inside = [row for part in parts for row in rows(part, f"{part.path.name}: ")]
        return [check("generations", partial(generations, run)), *inside]
    return rows(run, "")


def rows(run: Run, prefix: str) -> list[Check]:
    """Every look at one run."""
    looks: dict[str, Look] = {
        "recipe": recipe,
        "task": task,
        "state": state,
        "metrics": metrics,
        "timeline": timeline,
        "adapter": partial(adapter, which="last"),
        "best adapter": partial(adapter, which="best"),
        "parameters": parameters,
        "checkpoints": checkpoints,
        "lock": lock,
        "leftovers": leftovers,
    }
    return [check(prefix + name, partial(look, run)) for name, look in looks.items()]


def recipe(run: Run) -> Finding:
    """The resolved recipe."""
    loaded = load_recipe(run.recipe).recipe
    return Finding(f"{loaded.model.name} on {loaded.task.name}, {loaded.adapter.method}, search {loaded.search.method}")


def task(run: Run) -> Finding:
    """What is learnt."""
    told = run.task()
    return Finding(f"{told.name}, {', '.join(told.labels) or 'a number'}, by {main_metric(told)}")


def state(run: Run) -> Finding:
    """Whether the training came to its end, and whether its summary tells what its records tell."""
    scored = [record for record in run.metrics() if "scores" in record]
    if not run.finished:
        if untrained(run):
            return Finding("put together, not trained")
        step = max((record["step"] for record in run.metrics()), default=0)
        return Finding(f"not trained to its end: step {step} is the last in its records", WARNING, resume(run))
    summary = run.summary()
    if elsewhere := tell_origin(summary):
        return Finding(elsewhere)
    if scored and summary.get("last") != scored[-1]["scores"]:
        raise RunError("summary.json's last scores are not those of metrics.jsonl")
    if scored and summary["best"] not in [record["scores"] for record in scored]:
        raise RunError("summary.json's best scores are not in metrics.jsonl")
    if scored and summary["steps"] != scored[-1]["step"]:
        raise RunError(f"summary.json says {summary['steps']} steps, and metrics.jsonl {scored[-1]['step']}")
    return Finding(f"finished, {count(summary.get('steps', 0))} steps")


def metrics(run: Run) -> Finding:
    """Losses and scores, each in the order of steps."""
    found = read_records(run.path / "metrics.jsonl", run.metrics, check_metric)
    for kind in ("loss", "scores"):
        in_order([record["step"] for record in found if kind in record], f"steps with {kind}")
    return whole_lines(run, "metrics", len(found))


def timeline(run: Run) -> Finding:
    """The search's choices, in the order of steps, each within its budget."""
    found = read_records(run.path / "timeline.jsonl", run.timeline, check_tick)
    if not found:
        return Finding("no search")
    in_order([tick["step"] for tick in found], "ticks")
    over = [tick["step"] for tick in found if tick["parameters"] > tick["budget"]]
    if over:
        raise RunError(f"the choice before step {over[0]} is over its budget")
    return whole_lines(run, "timeline", len(found))


def in_order(steps: Sequence[int], what: str) -> None:
    """Refuse steps that do not rise."""
    if fallen := [later for earlier, later in pairwise(steps) if later <= earlier]:
        raise RunError(f"{what} are out of order: {fallen[0]} comes again or too late")


def whole_lines(run: Run, name: str, read: int) -> Finding:
    """How many records were read; what follows the last of them is a line that was cut."""
    path = run.path / f"{name}.jsonl"
    lines = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
    if lines == read:
        return Finding(f"{count(read)} records")
    if lines == read + 1 and not run.finished:
        return Finding(
            f"{count(read)} records and one that was cut short", WARNING, "nothing to do: resuming writes it anew"
        )
    return Finding(f"line {read + 1} of {lines} cannot be read", FAILED, train_anew(run))


def adapter(run: Run, which: str) -> Finding:
    """Every tensor there and finite, every site told, the head saved, and the numbers in lorakit.json true."""
    path = run.weights(which)
    if not path.is_dir():
        if run.finished and (which == "last" or "best_step" in run.summary()):
            raise RunError("is missing", where=str(path), hint=train_anew(run))
        return Finding("none" if run.finished or untrained(run) else "not written yet", SKIPPED)
    tensors = dict(saved_tensors(path))
    told, sites = read_json(path / OURS), told_sites(path)
    lacking = [part for part in told["new_parts"] if part not in tensors and PREFIX + part not in tensors]
    if lacking:
        raise RunError(f"the head is not saved: {', '.join(lacking)}", where=str(path))
    summed = sum(site["parameters"] for site in sites if site["state"] == "on")
    if summed > told["adapter_parameters"]:
        raise RunError(
            f"its sites have {summed:,} parameters, and {OURS} says {told['adapter_parameters']:,} in all",
            where=str(path),
        )
    numbers = f"{count(told['adapter_parameters'])} parameters, {count(told['head_parameters'])} in the head"
    return Finding(f"{len(tensors)} tensors, finite; {len(sites)} sites; {numbers}")


def saved_tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """All tensors of an adapter's folder. RunError for a damaged file."""
    for file in (PEFT_TENSORS, OUR_TENSORS):
        if (path / file).exists():
            yield from read_tensors(path / file).items()


def parameters(run: Run) -> Finding:
    """The model built from the recipe, with the adapter in it: as many parameters as the summary tells, within the budget."""
    if not run.weights("last").is_dir():
        return Finding("there is no last adapter yet", SKIPPED)
    restored = restore_run(run.path, "last", offline=True, with_data=False)
    adapted = restored.adapted
    # an adapter's own file counts all that it has
    never = never_trained(restored.loaded.recipe, adapted).total() if run.finished else 0
    budget = restored.parts.budget.parameters - never
    here = {"adapter_parameters": adapted.adapter_parameters() - never, "head_parameters": adapted.head_parameters()}
    here["sites_on"] = len(adapted.on)
    told: Mapping[str, Any] = run.summary() if run.finished else read_json(run.weights("last") / OURS)
    wrong = [
        f"{name} {told[name]:,}, and the model has {value:,}"
        for name, value in here.items()
        if told.get(name, value) != value
    ]
    if wrong:
        raise RunError(f"the run says {'; '.join(wrong)}")
    if here["adapter_parameters"] > budget:
        raise RunError(f"{here['adapter_parameters']:,} adapter parameters are on, over the budget of {budget:,}")
    return Finding(f"{count(here['adapter_parameters'])} on {here['sites_on']} sites, of a budget of {count(budget)}")


def checkpoints(run: Run) -> Finding:
    """Every checkpoint against its checksums."""
    found = all_checkpoints(run.checkpoints)
    damaged = [path.name for path in found if not intact(path)]
    if damaged:
        good = len(found) - len(damaged)
        told = f"{', '.join(damaged)} damaged, {good} good"
        fatal = not good and not run.finished
        return Finding(
            told,
            FAILED if fatal else WARNING,
            train_anew(run) if fatal else "nothing to do: it is passed over",
        )
    if not found and not run.finished and not untrained(run):
        return Finding("none: there is nothing to resume from", WARNING, train_anew(run))
    return Finding(", ".join(path.name for path in found) + (": as they were written" if found else "none"))


def lock(run: Run) -> Finding:
    """Whether somebody trains it now."""
    holder = locks.holder_in(run.lock)
    if holder is None:
        return Finding("free")
    if holder.dead:
        return Finding(f"left by {holder}, which has ended", advice="nothing to do: it is taken over")
    return Finding(f"{holder} trains it", WARNING, f"wait for it; where that process has ended, delete {run.lock}")


def leftovers(run: Run) -> Finding:
    """What a kill left half written."""
    found = [path for pattern in (".*.partial", ".*.old") for path in run.path.rglob(pattern)]
    if not found:
        return Finding("none")
    names = ", ".join(str(path.relative_to(run.path)) for path in found)
    return Finding(names, WARNING, "nothing to do: resuming clears them away" if not run.finished else "delete them")


def generations(run: Run) -> Finding:
    """An evolution's records: numbered in order, with fitness that is a number."""
    path = run.path / GENERATIONS
    found = read_records(path, partial(read_jsonl, path), check_generation)
    if [record["generation"] for record in found] != list(range(len(found))):
        raise RunError("generations are not numbered in order", where=str(path))
    return Finding(f"{len(found)} generations, {sum(len(record['candidates']) for record in found)} configurations")


def check_generation(record: Mapping[str, Any]) -> None:
    """Configurations, each with its fitness."""
    check_numbers(record["best"], record["mean"], *(each["fitness"] for each in record["candidates"]))


def untrained(run: Run) -> bool:
    """Whether the run was put together by a search, and never trained."""
    return not run.finished and not run.metrics() and run.weights("last").is_dir()


def resume(run: Run) -> str:
    """What goes on with the run."""
    if any(intact(path) for path in all_checkpoints(run.checkpoints)):
        return command_line("train", run.path, "--resume")
    return train_anew(run)


def train_anew(run: Run) -> str:
    """What to do where nothing of a run can be gone on from."""
    return f"train anew: {command_line('train', run.recipe)}"
