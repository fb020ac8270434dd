"""``lorakit plan``: what a recipe would do, before it does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import (
    AsJson,
    LabelColumn,
    ModelName,
    Offline,
    Overrides,
    RecipeName,
    Seed,
    TextColumn,
    open_recipe,
)
from lorakit.cli.output import write
from lorakit.cli.sequence import refuse_for_sequence, sequence_settings, tell_plan
from lorakit.reporting.tables import Column, count, counted, facts, memory, table

if TYPE_CHECKING:
    from lorakit.workflow.fit import Fit
    from lorakit.workflow.plan import Plan


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    model: ModelName = None,
    seed: Seed = None,
    offline: Offline = False,
    fit: Annotated[
        Optional[str],
        typer.Option(
            "--fit", metavar="SIZE", help="Look for settings that make the training fit into so much memory, as 24GB."
        ),
    ] = None,
    fsdp: Annotated[
        int,
        typer.Option(
            "--fsdp", metavar="N", help="The memory of each of N processes that share the frozen weights out (FSDP)."
        ),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Show the sites, budget, steps, ticks and memory of a recipe; train nothing."""
    with envelope(offline=offline, quiet=True):
        from lorakit.recipe.sequence import find_sequence

        if find_sequence(recipe) is not None:
            refuse_for_sequence({"--fit": fit, "--fsdp": fsdp if fsdp != 1 else None, "--text": text, "--label": label})
            given = sequence_settings(overrides, seed=seed, model=model, offline=offline)
            answer(lorakit.plan_sequence(recipe, given), tell_plan, as_json=as_json)
            return
        loaded = open_recipe(recipe, overrides, seed=seed, offline=offline, text=text, label=label, model=model)
        answer(lorakit.plan(loaded, fit=fit, fsdp=fsdp), tell, as_json=as_json)


def tell(result: Plan) -> None:
    """Write what matters in figures, then the matched sites, which may be hundreds."""
    sites = table(
        result.sites,
        [
            Column("site", lambda site: site.label),
            Column("module", lambda site: site.name),
            Column("shape", lambda site: site.shape, right=True),
            Column("rank", lambda site: site.rank, right=True),
            Column("parameters", lambda site: count(site.parameters), right=True),
        ],
        title=counted(len(result.sites), "site"),
    )
    pairs = [
        ("adapters", f"{count(result.adapter_parameters)} parameters with every site on"),
        ("budget", f"{count(result.budget)} parameters, {result.budget_source}"),
        ("head", f"{count(result.head_parameters)} parameters, not in the budget"),
        ("backbone", f"{count(result.model_parameters)} parameters, {memory(result.model_bytes)} frozen"),
        ("training rows", count(result.rows)),
        ("steps", f"{count(result.total_steps)}, {result.steps_per_epoch} an epoch, {result.warmup_steps} of warm-up"),
        ("evaluations", at_steps(result.evaluations)),
        ("ticks", at_steps(result.ticks)),
        ("search", f"about {result.search_overhead:.0f} % on top of training" if result.ticks else "none"),
        *(
            [("learning rate", f"found before the first step: about {result.rate_overhead:.0f} % on top of training")]
            * bool(result.rate_overhead)
        ),
        ("optimiser", f"keeps {memory(result.optimizer_bytes)}"),
        ("memory", f"about {memory(result.memory_bytes)}"),
        *(("note", note) for note in result.notes),
        *(("in the data", remark) for remark in result.remarks),
    ]
    write(facts(pairs), sites)
    if result.fit is not None:
        tell_fit(result.fit)


def tell_fit(fit: Fit) -> None:
    """Write what was tried to make the training fit, and what does."""
    peak = Column("peak", lambda tried: memory(tried.peak) if tried.peak is not None else "-", right=True)
    answer = Column("fits", lambda tried: "yes" if tried.fits else tried.why or "no")
    settings = Column("settings", lambda tried: " ".join(tried.settings) or "as it is")
    title = f"what fits into {memory(fit.limit)}, without driver and libraries"
    if fit.settings is None:
        last = "nothing that was tried fits: shorter rows (task.max_length), a smaller model, fewer sites"
    else:
        last = f"it fits with {' '.join(fit.settings)}" if fit.settings else "it fits as it is"
    write(table(fit.tried, [settings, peak, answer], title=title), last)


def at_steps(steps: list[int], shown: int = 8) -> str:
    """``3, at steps 0, 47, 94``; a long list is cut in the middle."""
    if not steps:
        return "none"
    numbers = [str(step) for step in steps]
    if len(numbers) > shown:
        numbers = [*numbers[: shown - 1], "...", numbers[-1]]
    return f"{len(steps)}, at step{'s' if len(steps) > 1 else ''} {', '.join(numbers)}"
