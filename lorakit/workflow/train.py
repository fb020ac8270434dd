"""``lorakit train``: a recipe becomes a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import save_adapter
from lorakit.artifacts.files import mend
from lorakit.artifacts.lock import claimed
from lorakit.artifacts.run import Run, claim, new_run, open_run, unfinished_run
from lorakit.artifacts.saved import check_saved
from lorakit.errors import RunError, UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.schema import Recipe
from lorakit.tasks.metrics import main_metric
from lorakit.tasks.task import TaskData
from lorakit.training.checkpoint import load_checkpoint
from lorakit.training.evaluation import score_splits
from lorakit.training.graphs import LENGTHS, Graphs, check_graphs
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.loader import TrainLoader
from lorakit.training.loop import Training
from lorakit.training.loop import train as run_loop
from lorakit.training.malloc import give_memory_back
from lorakit.training.objective import Objective
from lorakit.training.optim import make_optimizer, make_scheduler
from lorakit.training.schedule import Schedule, make_schedule
from lorakit.training.search_hook import SearchHook
from lorakit.training.seeds import derive_seed, generator
from lorakit.training.update import Update, UpdateContext, chosen_updates, summed_loss
from lorakit.workflow.calibrate import calibrate
from lorakit.workflow.setup import (
    Parts,
    Result,
    adapt,
    assemble,
    check_device,
    flat,
    lean,
    located,
    make_accelerator,
    make_allocator,
    seed_dropout,
    talk,
    this_process,
    warm_start,
)

FREE_ON_RESUME = (
    "training.nonfinite",
    "training.gradient_checkpointing",
    "run.name",
    "run.folder",
    "run.offline",
    "run.keep_checkpoints",
)


@dataclass(frozen=True)
class TrainResult(Result):
    """What a run came to; also its summary.json.

    last and best: scores of the last evaluation and of the best one, which the validation split itself chose; seconds: of
    training, that before an interruption included and loading not; search_seconds: what the ticks took of that; skipped_steps: those
    left out because a gradient was not finite.
    """

    run_dir: Path
    task: str
    metric: str
    last: dict[str, float]
    best: dict[str, float]
    best_step: int
    best_epoch: float
    steps: int
    epochs: float
    seconds: float
    search_seconds: float
    adapter_parameters: int
    carried_parameters: int
    head_parameters: int
    budget: int
    sites_on: int
    sites_total: int
    seed: int
    skipped_steps: int


def train(
    loaded: LoadedRecipe,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    hooks: Sequence[Hook] = (),
    data: TaskData | None = None,
) -> TrainResult:
    """Train the recipe into a run folder, or go on with one. Raises Interrupted after a polite stop.

    data: the rows, where they are at hand already.
    """
    run = choose_run(loaded, run_dir, resume)
    if resume:
        run.check_own()
        check_same_recipe(loaded, run)
    parts = assemble(loaded, data)
    with alone_in(run, fresh=not resume):
        training, search = prepare(loaded, parts, run, hooks, fresh=not resume)
        if resume:
            talk.info("resuming from %s", load_checkpoint(training))
        elif training.accelerator.is_main_process:
            run.start(loaded.to_yaml(), parts.task)
        try:
            run_loop(training)
        finally:
            if loaded.recipe.run.trackers:
                training.accelerator.end_training()
        result = summarise(training, parts, search)
        if training.accelerator.is_main_process:
            save_adapter(training.adapted, run.weights("last"))
            check_saved(training.adapted, run.weights("last"))
            draw(run, parts)
            run.write_summary(result.to_dict())
        return result


@contextmanager
def alone_in(run: Run, *, fresh: bool) -> Iterator[None]:
    """The run's folder is ours during the block, and what a kill left half done in it is put right. UsageError where another trains."""
    if not this_process().is_main_process:
        yield
        return
    with claimed(run.lock) as lock:
        if lock.held_by and not lock.held_by.here:
            raise UsageError(
                f"another process trains this run: {lock.held_by}",
                where=str(run.path),
                hint=f"wait for it, or name another --run-dir; where that process is no more, delete {run.lock}",
            )
        if fresh and run.recipe.exists():
            raise UsageError("another process has just trained here", where=str(run.path), hint="another --run-dir")
        if lock.left_by:
            talk.warning("%s: taken over from %s, which is no more", run.path, lock.left_by)
        mend(run.path)
        yield


def check_same_recipe(loaded: LoadedRecipe, run: Run) -> None:
    """Refuse to go on with a finished run, or with a recipe that is not the one the run was begun with."""
    if run.finished:
        raise UsageError(
            "this run was trained to its end already", where=str(run.path), hint="lorakit eval, or a new run"
        )
    if changed := changed_keys(loaded, run):
        raise UsageError(
            f"the recipe has changed since this run began: {', '.join(changed)}",
            where=str(run.path),
            hint=f"lorakit train {run.path} --resume goes on with the run's own recipe",
        )


def changed_keys(loaded: LoadedRecipe, run: Run) -> list[str]:
    """The keys, of those that matter, in which the recipe is not the one the run was begun with."""
    begun, given = (dict(flat(asdict(recipe))) for recipe in (load_recipe(run.recipe).recipe, loaded.recipe))
    keys = {**given, **begun}  # an entry of a mapping, such as a site's rank, may be in one of them alone
    return [key for key in keys if given.get(key) != begun.get(key) and key not in FREE_ON_RESUME]


def choose_run(loaded: LoadedRecipe, run_dir: Path | None, resume: bool) -> Run:
    """The folder to train in: the named one, or a fresh one, or the newest unfinished one."""
    recipe = loaded.recipe
    name, folder, seed = recipe.run.name or loaded.name, Path(recipe.run.folder), recipe.run.seed
    if resume:
        return open_run(run_dir) if run_dir else unfinished_run(folder, name, seed)
    return claim(run_dir) if run_dir else new_run(folder, name, seed)


def prepare(
    loaded: LoadedRecipe, parts: Parts, run: Run, hooks: Sequence[Hook], *, fresh: bool = True
) -> tuple[Training, SearchHook | None]:
    """Everything the loop needs, and the search's hook where the recipe has a search.

    fresh: whether the adapters start here; otherwise their tensors are loaded afterwards, and no init looks at data.
    """
    recipe, task = loaded.recipe, parts.task
    if recipe.training.gradient_checkpointing:  # memory counts more than time
        give_memory_back()
    with located(loaded):
        encoded = parts.encode("train", *task.validation)
        schedule = make_schedule(recipe, len(encoded["train"]))
        check_device(recipe)
        adapted = adapt(parts, statistics=calibrate(parts, encoded["train"]) if fresh else None)
        if fresh:
            warm_start(recipe, adapted)
    lean(parts, adapted)
    accelerator = make_accelerator(recipe, run.path)
    model = accelerator.prepare_model(adapted.model)
    objective = Objective(accelerator, task.regression)
    loader = TrainLoader(
        encoded["train"],
        recipe.training,
        derive_seed(recipe.run.seed, "data"),
        accelerator.process_index,
        accelerator.num_processes,
        multiple=LENGTHS if recipe.training.cuda_graphs else 1,
    )
    optimizer = make_optimizer(adapted, recipe.training)
    search = None
    with located(loaded):
        if recipe.search.method != "none":
            allocator = make_allocator(parts, adapted, loader, objective, schedule, optimizer)
            search = SearchHook(allocator, run, writes=accelerator.is_main_process)
        updates = make_updates(recipe, adapted, schedule, objective, optimizer, loader)
    graphs = None
    if recipe.training.cuda_graphs:
        with located(loaded):
            check_graphs(recipe.training, accelerator, adapted.model.config, [*([search] if search else []), *updates])
        graphs = Graphs(adapted)
    state = TrainState(
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        lr=recipe.training.lr or 0.0,
        sites_on=len(adapted.on),
        sites_total=len(adapted.sites),
        next_tick=schedule.next_tick(0),
    )
    training = Training(
        recipe=recipe,
        run=run,
        adapted=adapted,
        model=model,
        accelerator=accelerator,
        objective=objective,
        loss=summed_loss(objective, [*updates, *([search.allocator] if search else [])]),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, recipe.training, schedule),
        schedule=schedule,
        loader=loader,
        evaluate=lambda: score_splits(adapted.model, task, encoded, objective, recipe.evaluation.batch_size),
        metric=main_metric(task),
        state=state,
        hooks=[*([search] if search else []), *updates, *([graphs] if graphs else []), *hooks],
        graphs=graphs,
    )
    seed_dropout(recipe)
    return training, search


def make_updates(
    recipe: Recipe,
    adapted: AdaptedModel,
    schedule: Schedule,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    loader: TrainLoader,
) -> list[Update]:
    """The recipe's updates in order; each draws, and draws training rows, from a stream of its own."""
    updates = []
    for kind, options in chosen_updates(recipe):
        own = generator(recipe.run.seed, f"updates/{kind.name}")
        draw = partial(loader.sample, generator=own)
        updates.append(kind(UpdateContext(adapted, recipe, schedule, objective, optimizer, draw, own, options)))
    return updates


def summarise(training: Training, parts: Parts, search: SearchHook | None) -> TrainResult:
    """What the run came to. Raises RunError where what is on is not what the budget allows."""
    adapted, state = training.adapted, training.state
    on = adapted.adapter_parameters()
    if on > parts.budget.parameters:
        raise RunError(
            f"the run ended with {on:,} adapter parameters on, over its budget of {parts.budget.parameters:,}"
        )
    best = state.best or {}
    return TrainResult(
        run_dir=training.run.path,
        task=parts.task.name,
        metric=training.metric,
        last=state.scores,
        best=best["scores"],
        best_step=best["step"],
        best_epoch=best["epoch"],
        steps=state.step,
        epochs=state.epoch,
        seconds=state.seconds,
        search_seconds=search.seconds if search else 0.0,
        adapter_parameters=on,
        carried_parameters=adapted.adapter_parameters(adapted.in_function),
        head_parameters=adapted.head_parameters(),
        budget=parts.budget.parameters,
        sites_on=len(adapted.on),
        sites_total=len(adapted.sites),
        seed=training.recipe.run.seed,
        skipped_steps=len(state.skipped),
    )


def draw(run: Run, parts: Parts) -> None:
    """The figures of the run: how often each site was on, and the curves."""
    from lorakit.reporting.figures import site_heatmap, training_curves

    timeline = run.timeline()
    if timeline:
        site_heatmap(timeline, parts.sites, run.report / "sites.png")
    training_curves(run.metrics(), [tick["step"] for tick in timeline], run.report / "curves.png")
