"""From a recipe to its parts: data, backbone, sites, budget, adapted model, device."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.attach import NO_SITE_STATISTICS, attach
from lorakit.adapters.block import blocks
from lorakit.adapters.budget import Budget, resolve_budget
from lorakit.adapters.conflicts import conflicts_with_search
from lorakit.adapters.counting import costs, shared_cost, spec_for
from lorakit.adapters.gradient_checkpointing import recompute_layers
from lorakit.adapters.method import Method, methods, resolve, shortcut_spec
from lorakit.adapters.spec import AdapterSpec, read_options
from lorakit.artifacts.warm_start import start_from
from lorakit.backbone.first_token import compute_first_token_only
from lorakit.backbone.load import Backbone, load_backbone
from lorakit.backbone.site import Site
from lorakit.errors import LorakitError, Problem, RecipeError, UsageError, nearest
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import EVOLUTION, Recipe
from lorakit.searching.allocator import Allocator, SearchContext, allocators, read_settings
from lorakit.tasks.batching import Encoded, encode
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import Task, TaskData
from lorakit.tasks.tokens import Progress
from lorakit.training.dropout import fast_dropout
from lorakit.training.loader import TrainLoader
from lorakit.training.objective import Objective
from lorakit.training.optim import moments_of
from lorakit.training.schedule import Schedule
from lorakit.training.seeds import derive_seed, generator
from lorakit.training.update import chosen_updates

talk = logging.getLogger("lorakit")

TELL_EVERY = 5  # seconds
DATA_PARALLEL = ("MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU")
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Result:
    """A dataclass that turns into JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; paths become text."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass
class Parts:
    """What a recipe names, loaded; adapters are attached by ``adapt``.

    sites: those that get adapters; ranks and options: site name -> rank, settings of its delta, where they are not its spec's;
    budget: what may be on at once.
    """

    recipe: Recipe
    data: TaskData
    backbone: Backbone
    sites: list[Site]
    linear: AdapterSpec
    shortcut: AdapterSpec
    budget: Budget
    ranks: dict[str, int] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        """The recipe's adapter method."""
        return methods.get(self.recipe.adapter.method)

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self.data.task

    @property
    def costs(self) -> dict[str, int]:
        """Site name -> trained parameters of its own at its full rank."""
        return costs(self.sites, self.linear, self.shortcut, self.ranks, self.options)

    @property
    def shared_cost(self) -> int:
        """Trained parameters that sites have in common."""
        return shared_cost(self.sites, self.linear, self.shortcut, self.ranks)

    def rank_of(self, site: Site) -> int:
        """The rank the site has when it is on."""
        return self.ranks.get(site.name, spec_for(site, self.linear, self.shortcut).rank)

    def encode(self, *splits: str) -> dict[str, Encoded]:
        """The tokenised splits, with a word about rows that were cut."""
        return {split: encode_split(self.data, split, self.backbone, self.max_length) for split in splits}

    @property
    def max_length(self) -> int:
        """Tokens a row keeps: the recipe's number, or what the model can take where that is less."""
        return self.backbone.longest_text(self.recipe.task.max_length)


def encode_split(data: TaskData, split: str, backbone: Backbone, length: int) -> Encoded:
    """A tokenised split, with a word about rows that were cut."""
    encoded = encode(data.splits[split], backbone.tokenizer, length, split, progress=tell_rows(split))
    if encoded.truncated:
        talk.info("%s: %d of %d rows are cut to %d tokens", split, encoded.truncated, len(encoded), length)
    return encoded


def tell_rows(split: str) -> Progress:
    """Says every few seconds how many rows are tokenised."""
    spoken = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken > TELL_EVERY:
            spoken = time.monotonic()
            talk.info("%s: %s of %s rows tokenised", split, f"{done:,}", f"{total:,}")

    return tell


@contextmanager
def located(loaded: LoadedRecipe) -> Iterator[None]:
    """Errors about a recipe's key get the file and line where it stands."""
    try:
        yield
    except LorakitError as error:
        raise loaded.locate(error) from error.__cause__


def assemble(loaded: LoadedRecipe, data: TaskData | None = None) -> Parts:
    """Load what the recipe names and check what only the model can tell: targets, budget (``adapt`` checks the ranks).

    data: where it is at hand already.
    """
    recipe = loaded.recipe
    with located(loaded):
        check_precision(recipe)
        check_trackers(recipe)
        check_search(recipe)
        chosen_updates(recipe)
        linear, shortcut = resolve(recipe.adapter), shortcut_spec(recipe.adapter)
        if problems := conflicts_with_search(linear, recipe.search):
            raise RecipeError(problems)
        data = data or load_task(recipe.task, seed=derive_seed(recipe.run.seed, "data"), offline=recipe.run.offline)
        backbone = load_backbone(
            recipe.model,
            labels=data.task.labels,
            regression=data.task.regression,
            seed=derive_seed(recipe.run.seed, "init/head"),
            offline=recipe.run.offline,
        )
        for note in backbone.notes:
            talk.info("%s", note)
        sites, ranks = choose_sites(recipe, backbone)
        options = site_options(recipe, linear, sites)
        if recipe.search.method == "none":
            everything = sum(costs(sites, linear, shortcut, ranks, options).values())
            everything += shared_cost(sites, linear, shortcut, ranks)
            budget = Budget(everything, 1.0, f"all {len(sites)} sites")
        else:
            allocator = allocators.get(recipe.search.method)
            read_settings(allocator, recipe.search.options)
            share, by = allocator.default_share, allocator.by
            budget = resolve_budget(recipe.search, sites, linear, shortcut, default_share=share, by=by)
    return Parts(recipe, data, backbone, sites, linear, shortcut, budget, ranks, options)


def choose_sites(recipe: Recipe, backbone: Backbone) -> tuple[list[Site], dict[str, int]]:
    """The sites of the recipe's targets and shortcuts; of these the allocation's, with their ranks, where it has one."""
    adapter, anatomy = recipe.adapter, backbone.anatomy
    method = methods.get(adapter.method)
    if method.block and adapter.targets != list(method.targets):
        where = blocks.get(method.block).summary
        talk.info("adapter.targets has no effect: %s sits on %s", method.name, where)
    candidates = [*method.sites(backbone, adapter.targets), *anatomy.shortcuts(adapter.shortcuts)]
    if not adapter.allocation:
        return candidates, {}
    known = {site.name for site in candidates}
    problems = [
        Problem(
            f"there is no site '{name}' among the targets and shortcuts",
            key="adapter.allocation",
            valid="names as `lorakit plan` lists them",
            hint=nearest(name, known),
        )
        for name in adapter.allocation
        if name not in known
    ]
    if problems:
        raise RecipeError(problems)
    ranks = {name: rank for name, rank in adapter.allocation.items() if rank > 0}
    return [site for site in candidates if site.name in ranks], ranks


def site_options(recipe: Recipe, linear: AdapterSpec, sites: Sequence[Site]) -> dict[str, dict[str, Any]]:
    """Site name -> its own settings, read from ``adapter.site_options``. Raises RecipeError for a site that is not there."""
    known = {site.name for site in sites}
    read = {}
    for name, text in recipe.adapter.site_options.items():
        if name not in known:
            raise RecipeError(
                Problem(f"there is no site '{name}'", key="adapter.site_options", hint=nearest(name, known))
            )
        pairs = dict(pair.split("=", 1) for pair in text.split(","))
        read[name] = read_options(linear.delta, pairs, "adapter.site_options")
    return read


def check_precision(recipe: Recipe) -> None:
    """Gradients through float16 weights vanish unless the loss is scaled, which mixed precision does."""
    if recipe.model.dtype == "float16" and recipe.training.precision != "fp16":
        raise RecipeError(
            "weights in float16 train with scaled losses only",
            key="training.precision",
            valid="fp16",
            hint="or model.dtype=bfloat16",
        )


def check_search(recipe: Recipe) -> None:
    """GLoRA's search comes before the training, and is a command."""
    if recipe.search.method == EVOLUTION:
        raise RecipeError(
            f"'{EVOLUTION}' is no search during a training: it finds the recipe to train",
            key="search.method",
            valid=", ".join(["none", *allocators.names()]),
            hint=f"lorakit search RECIPE --method {EVOLUTION}",
        )


def check_device(recipe: Recipe) -> None:
    """Accelerate trains in plain float32, and says nothing, where float16 is asked for and there is no GPU."""
    if recipe.training.precision == "fp16" and this_process().device.type == "cpu":
        raise RecipeError(
            "float16 needs a GPU, and there is none here", key="training.precision", valid="fp32, or bf16 on a CPU too"
        )


def check_trackers(recipe: Recipe) -> None:
    """Refuse trackers whose package is missing: Accelerate would leave them out silently. ``all`` is whatever is installed."""
    installed = [str(name) for name in get_available_trackers()]
    problems = [
        Problem(
            f"tracker '{name}' is not installed",
            key="run.trackers",
            valid=", ".join(installed) or "none is installed",
            hint=f"pip install {name}",
        )
        for name in recipe.run.trackers
        if name not in ("all", *installed)
    ]
    if problems:
        raise RecipeError(problems)


def adapt(
    parts: Parts, *, statistics: Mapping[str, Mapping[str, torch.Tensor]] | None = NO_SITE_STATISTICS
) -> AdaptedModel:
    """Attach the adapters; each site starts from its own stream of the run's seed.

    statistics: site name -> what its init needs of training data (see ``calibrate``); None where the tensors are loaded afterwards.
    """
    seed = parts.recipe.run.seed
    adapted = attach(
        parts.backbone,
        parts.sites,
        parts.linear,
        parts.shortcut,
        norm=parts.recipe.adapter.shortcut_norm,
        ranks=parts.ranks,
        options=parts.options,
        block=parts.method.block,
        statistics=statistics,
        generator_for=lambda name: generator(seed, f"init/{name}"),
    )
    if parts.recipe.training.gradient_checkpointing:
        recompute_layers(adapted)
    return adapted


def lean(parts: Parts, adapted: AdaptedModel) -> None:
    """Make training steps cheaper where that changes no number, or dropout's draws alone."""
    parts.backbone.model.config.use_cache = False  # keys and values are kept for generation alone
    if sees_sites_alone(parts):
        compute_first_token_only(adapted.model, parts.backbone.anatomy)
    if this_process().device.type == "cpu":
        fast_dropout(adapted.model)


def sees_sites_alone(parts: Parts) -> bool:
    """Whether the sites' adapters are all that works on tokens: no search, shortcut, block or update looks at others than the head."""
    recipe = parts.recipe
    search = recipe.search.method
    looks = search != "none" and allocators.get(search).sees_tokens
    updates = any(kind.sees_tokens for kind, _ in chosen_updates(recipe))
    return not (looks or updates or recipe.adapter.shortcuts or parts.method.block)


def warm_start(recipe: Recipe, adapted: AdaptedModel) -> None:
    """Put in the trained adapter that the recipe starts from, where it names one."""
    if recipe.adapter.start:
        for note in start_from(adapted, Path(recipe.adapter.start)):
            talk.info("%s", note)


def this_process() -> PartialState:
    """Which of the processes this is; Accelerate's own default misses `accelerate launch --cpu` where nothing was made before."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def make_accelerator(recipe: Recipe, folder: Path | None = None) -> Accelerator:
    """The device and precision of the recipe, and its trackers where a run's folder is given. UsageError where weights would be sharded."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[recipe.training.precision],
        log_with=recipe.run.trackers if folder and recipe.run.trackers else None,
        project_dir=str(folder) if folder else None,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.distributed_type.value not in ("NO", *DATA_PARALLEL):
        raise UsageError(
            f"training under {accelerator.distributed_type.value} is not possible: adapters are switched, counted and saved whole",
            valid="data parallel, on any number of machines: every process holds the frozen model",
            hint="accelerate launch --multi_gpu; in less memory: model.dtype=bfloat16, or a smaller training.batch_size",
        )
    if folder and recipe.run.trackers:
        accelerator.init_trackers("lorakit", config=dict(flat(asdict(recipe))))
    return accelerator


def flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """``section.key`` and value of every key, as trackers take it."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, (int, float, bool, str)) else str(value)


def make_allocator(
    parts: Parts,
    adapted: AdaptedModel,
    loader: TrainLoader,
    objective: Objective,
    schedule: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Allocator:
    """The recipe's allocator, scoring training rows only; without a schedule and an optimiser for a search outside a training."""
    search = parts.recipe.search
    context = SearchContext(
        adapted=adapted,
        search=search,
        budget=parts.budget,
        costs=parts.costs,
        draw=loader.first if search.data == "first" else loader.sample,
        loss=objective.mean,
        logits=objective.logits,
        regression=parts.task.regression,
        generator=generator(parts.recipe.run.seed, "search"),
        total_steps=schedule.total_steps if schedule else 1,
        ticks=schedule.ticks if schedule else [0],
        moments=partial(moments_of, optimizer) if optimizer else lambda parameter: (),
    )
    allocator: Allocator = allocators.get(search.method)(context)
    return allocator


def seed_dropout(recipe: Recipe) -> None:
    """Dropout draws from torch's global generator, which starts here."""
    torch.manual_seed(derive_seed(recipe.run.seed, "dropout"))
