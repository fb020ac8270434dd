"""What must hold between the keys of a recipe. One generator a rule; each yields what it finds wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from lorakit.errors import LorakitError, Problem
from lorakit.recipe.draft import Draft, UnreadableError
from lorakit.recipe.keys import recipe_keys, section_keys
from lorakit.recipe.problems import Problems
from lorakit.recipe.schema import AdapterSection
from lorakit.recipe.task_rules import TASK_RULES
from lorakit.recipe.values import written
from lorakit.recipe.vocabulary import Configurable, Known, allocators, methods, optimizers, proxies

AXES = tuple(
    f"adapter.{axis}"
    for axis in (
        "method",
        "experts",
        "dropout",
        "options",
        "delta",
        "init",
        "scale",
        "decomposition",
        "lr_ratio",
        "trainable",
        "in_full",
    )
)
OF_WHOLE_ROWS = {
    "task.long": "is for single texts",
    "training.freeze_below": "keeps the states of rows as wholes",
    "training.cuda_graphs": "replays batches of one shape",
}
"""What does not go together with texts of a pair that are encoded apart, and why."""
BUDGETS = ("search.enable", "search.uniform_rank", "search.parameters")


def check(draft: Draft, problems: Problems) -> None:
    """Add what any rule finds wrong with ``draft``."""
    for rule in RULES:
        try:
            for problem in rule(draft):
                problems.add(problem.what, where=problem.where, key=problem.key, valid=problem.valid, hint=problem.hint)
        except UnreadableError:
            continue


def mandatory_keys(draft: Draft) -> Iterator[Problem]:
    """Every recipe names its model and its task."""
    for path, key in recipe_keys().items():
        if key.mandatory and path not in draft.values:
            yield draft.problem("must be given", path, key.rule.doc)


def one_budget(draft: Draft) -> Iterator[Problem]:
    """The budget is stated in one way."""
    given = [path for path in BUDGETS if draft.values.get(path) is not None]
    for path in given[1:]:
        first = f"{given[0]} is given at {draft.where(given[0])}"
        yield draft.problem(f"is a second budget: {first}", path, f"one of {', '.join(BUDGETS)}")


def budget_fits(draft: Draft) -> Iterator[Problem]:
    """A uniform-rank budget is no more than everything; counting modules needs a share."""
    uniform, highest = draft["search.uniform_rank"], max(draft["adapter.rank"], draft["adapter.shortcut_rank"] or 0)
    if uniform is not None and uniform > highest:
        yield draft.problem(
            f"a budget of rank {uniform} everywhere is more than all sites have at rank {highest}",
            "search.uniform_rank",
            f"from 1 to adapter.rank, which is {highest} ({draft.where('adapter.rank')})",
        )
    if draft["search.unit"] == "modules":
        for path in BUDGETS[1:]:
            if draft[path] is not None:
                yield draft.problem(
                    f"counts parameters, but search.unit is modules ({draft.where('search.unit')})",
                    path,
                    "search.enable with unit modules, or unit parameters",
                    "search.unit: parameters",
                )


def one_allocation(draft: Draft) -> Iterator[Problem]:
    """Ranks are given, or searched for."""
    method = draft["search.method"]
    if draft["adapter.allocation"] and method != "none":
        yield draft.problem(
            f"gives the ranks that search.method '{method}' ({draft.where('search.method')}) is to find",
            "adapter.allocation",
            "adapter.allocation, or a search",
            "search.method: none, or no allocation",
        )


def search_has_time(draft: Draft) -> Iterator[Problem]:
    """Between the warm-up before the first cut and the tail without switching there is something left."""
    warmup, tail = draft["search.warmup"], draft["search.tail"]
    if warmup + tail >= 1:
        yield draft.problem(
            f"with a warm-up of {warmup:g} ({draft.where('search.warmup')}) nothing of the training is left to search in",
            "search.tail",
            "less than 1 together",
        )


def preset_has_its_search(draft: Draft) -> Iterator[Problem]:
    """The presets are HeteroLoRA's."""
    if draft["search.preset"] is not None and draft["search.method"] not in ("none", "heterolora"):
        yield draft.problem(
            f"are settings of heterolora, and search.method is {draft['search.method']} ({draft.where('search.method')})",
            "search.preset",
            "null",
        )


def allocator_has_the_options(draft: Draft) -> Iterator[Problem]:
    """The allocator has the options that it is given; where there is none, none are given but by a preset."""
    method = draft["search.method"]
    if any(preset_has_its_search(draft)):
        return  # the options may be the preset's, which is told
    if method != "none":
        yield from unusable_options(draft, "search.options", allocators, method)
    elif draft["search.options"] and draft["search.preset"] is None:
        yield draft.problem("has no effect: there is no search", "search.options", "none", "search.method: heterolora")


def proxy_has_the_options(draft: Draft) -> Iterator[Problem]:
    """The proxy has the options that it is given, whoever asks for its scores."""
    yield from unusable_options(draft, "search.proxy_options", proxies, draft["search.proxy"])


def optimizer_has_the_options(draft: Draft) -> Iterator[Problem]:
    """The optimiser has the options that it is given."""
    yield from unusable_options(draft, "training.optimizer_options", optimizers, draft["training.optimizer"])


def unusable_options(draft: Draft, path: str, known: Callable[[], Known[Configurable]], name: str) -> Iterator[Problem]:
    """What of the options at ``path`` the one called ``name`` cannot take. The registry is asked for only where there are any."""
    for option, text in draft[path].items():
        try:
            known().get(name).settings_from({option: text})
        except LorakitError as error:
            for problem in error.problems:
                yield Problem(problem.what, draft.where(f"{path}.{option}"), path, problem.valid, problem.hint)


def something_to_adapt(draft: Draft) -> Iterator[Problem]:
    """There are targets or shortcuts, and each target is a role or a regex that can match a module name."""
    targets = draft["adapter.targets"]
    if not targets and not draft["adapter.shortcuts"]:
        yield draft.problem(
            "is empty, and there are no shortcuts: nothing would be adapted",
            "adapter.targets",
            recipe_keys()["adapter.targets"].rule.doc,
            "targets: [q, v]",
        )
    for target in targets:
        reason = "module names have no spaces" if re.search(r"\s", target) else regex_error(target)
        if reason:
            yield draft.problem(
                f"'{target}' can match no module: {reason}",
                "adapter.targets",
                recipe_keys()["adapter.targets"].rule.doc,
            )


def regex_error(pattern: str) -> str:
    """Why ``pattern`` is no regular expression, or an empty string."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"not a regular expression: {error}"
    return ""


def axes_go_together(draft: Draft) -> Iterator[Problem]:
    """The method's axes, with what the recipe changes of them, are a point of the product."""
    if draft["adapter.method"] not in methods():
        return
    section = AdapterSection(**{name: draft[f"adapter.{name}"] for name in section_keys()["adapter"]})
    try:
        methods().get(section.method).resolve(section)
    except LorakitError as error:
        for problem in error.problems:
            yield draft.problem(problem.what, at_fault(draft, problem.key), problem.valid, problem.hint)


def at_fault(draft: Draft, key: str) -> str:
    """The key to point at: the one that the problem names where the recipe gives it, else the axis that the recipe does give."""
    given = [path for path in AXES if draft.values.get(path) is not None]
    return key if key in given or not given else given[-1]


def in_full_is_always_on(draft: Draft) -> Iterator[Problem]:
    """What trains in full is trained in every step, wherever in the model it is."""
    path = "adapter.in_full"
    for other in ("search.method", "training.freeze_below"):
        if draft[path] and draft.changed(other):
            what = f"trains {' and '.join(draft[path])} in every step, and {other} ({draft.where(other)}) says what does not"
            yield draft.problem(what, path, "[] with it", f"{path}: []")


def options_are_readable(draft: Draft) -> Iterator[Problem]:
    """A site's own options are NAME=VALUE pairs."""
    for site, text in draft["adapter.site_options"].items():
        if not all(re.fullmatch(r"\w+=[^,=]+", pair) for pair in text.split(",")):
            yield draft.problem(
                f"'{text}' for {site} is not NAME=VALUE,NAME=VALUE", "adapter.site_options", "A=lora,B=none"
            )


def loss_uses_its_settings(draft: Draft) -> Iterator[Problem]:
    """Settings of one loss are given for that one."""
    focal = draft["training.loss"] == "focal"
    if not focal and draft.changed("training.focal_gamma"):
        yield draft.problem("has no effect: the loss is cross_entropy", "training.focal_gamma", "training.loss: focal")
    if focal and draft["training.label_smoothing"]:
        yield draft.problem(
            "is for cross_entropy: the focal loss looks at how right a row's one label is",
            "training.label_smoothing",
            "0, or training.loss: cross_entropy",
        )


def windows_have_their_pooling(draft: Draft) -> Iterator[Problem]:
    """How the logits of windows are pooled matters where there are windows."""
    if draft["task.long"] != "windows" and draft.changed("task.window_pooling"):
        what = f"has no effect: longer texts are read as task.long: {draft['task.long']} says"
        yield draft.problem(what, "task.window_pooling", "task.long: windows")


def readout_is_found_in_one_training(draft: Draft) -> Iterator[Problem]:
    """A search with runs of its own does not decide what the head reads."""
    readout, valid = "model.readout", "own, cls, mean, layers or pair"
    if draft[readout] == "auto" and draft["search.method"] == "glora":
        yield draft.problem("is decided in one training, and search.method: glora has several", readout, valid)


def pairs_are_taken_apart(draft: Draft) -> Iterator[Problem]:
    """A head that compares texts encoded by themselves has no use for what is made of both in one."""
    readout = "model.readout"
    for path, why in OF_WHOLE_ROWS.items():
        if draft[readout] == "pair" and draft[path] not in (False, recipe_keys()[path].default):
            valid = written(recipe_keys()[path].default)
            yield draft.problem(f"{why}, and {readout}: pair ({draft.where(readout)}) takes them apart", path, valid)


def quantising_has_its_settings(draft: Draft) -> Iterator[Problem]:
    """What is said of quantised weights needs some."""
    path = "model.quantization"
    uses = {
        "double_quant": ("nf4",),
        "quantization_group": ("int4",),
        "quantization_bits": ("mixed",),
        "compute_dtype": ("nf4", "int4", "int8", "mixed"),
    }
    for name, kinds in uses.items():
        if draft[path] not in kinds and draft.changed(f"model.{name}"):
            what = f"has no effect: {path} is {draft[path]} ({draft.where(path)})"
            default = written(recipe_keys()[f"model.{name}"].default)
            yield draft.problem(what, f"model.{name}", default, f"{path}: {kinds[0]}")
    if draft["model.quantization_group"] % 2:
        yield draft.problem("two numbers of a group share a byte", "model.quantization_group", "an even number, as 32")


def early_stopping_is_whole(draft: Draft) -> Iterator[Problem]:
    """Early stopping has a patience, in whole evaluations, and nothing else but a margin."""
    path = "training.early_stopping"
    given, valid = draft[path], "{patience: 3}, or {patience: 3, min_delta: 0.001}"
    for name in given:
        if name not in ("patience", "min_delta"):
            yield Problem(f"has no setting '{name}'", draft.where(f"{path}.{name}"), path, valid)
    if given and "patience" not in given:
        yield draft.problem("says no patience: after how many evaluations", path, valid)
    elif given and not (given["patience"] >= 1 and given["patience"].is_integer()):
        yield draft.problem(f"a patience of {given['patience']:g} is no number of evaluations", path, valid)


def average_is_of_something(draft: Draft) -> Iterator[Problem]:
    """What is averaged matters where something is."""
    if not draft["training.average"] and draft.changed("training.average_of"):
        yield draft.problem("has no effect: nothing is averaged", "training.average_of", "training.average: 0.4")


def freezing_goes_with_the_rest(draft: Draft) -> Iterator[Problem]:
    """What is said of frozen layers needs them, and they need a step that Python looks at, and no work on tokens below."""
    path = "training.freeze_below"
    if not draft[path]:
        for name in ("training.freeze_cache", "training.freeze_dtype"):
            if draft.changed(name):
                yield draft.problem("has no effect: no layers are frozen", name, f"{path}: auto")
        return
    if draft["training.cuda_graphs"] is True:
        yield draft.problem(
            f"cannot read stored states, which {path} ({draft.where(path)}) brings", "training.cuda_graphs", "false"
        )
    if draft["adapter.shortcuts"]:
        yield draft.problem(
            f"join layers, and {path} ({draft.where(path)}) cuts the lower ones off",
            "adapter.shortcuts",
            "none with it",
        )


RULES = (
    mandatory_keys,
    one_budget,
    budget_fits,
    one_allocation,
    search_has_time,
    preset_has_its_search,
    allocator_has_the_options,
    proxy_has_the_options,
    optimizer_has_the_options,
    something_to_adapt,
    axes_go_together,
    in_full_is_always_on,
    options_are_readable,
    loss_uses_its_settings,
    windows_have_their_pooling,
    readout_is_found_in_one_training,
    pairs_are_taken_apart,
    quantising_has_its_settings,
    early_stopping_is_whole,
    average_is_of_something,
    freezing_goes_with_the_rest,
    *TASK_RULES,
)
