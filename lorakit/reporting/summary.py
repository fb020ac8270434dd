"""The summary of a run in plain words: every number in them is computed, and none is made to say more than one run can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lorakit.reporting.budget_shares import (
    Share,
    ValueAgainstQuery,
    by_kind,
    by_role,
    by_third,
    layer_thirds,
    value_against_query,
)
from lorakit.reporting.history import History
from lorakit.reporting.stability import Stability
from lorakit.reporting.tables import counted, duration, percent, scores
from lorakit.tasks.calibration import Calibration


@dataclass(frozen=True)
class Passage:
    """A heading and the sentences under it."""

    title: str
    sentences: list[str]


@dataclass(frozen=True)
class Outcome:
    """What a run came to, as far as it came.

    last and best: scores, empty where nothing was scored; origin: where an untrained run comes from, empty for a trained one;
    the numbers of parameters are None where the run has not written them; warnings: what says that it came to little; stopped: how it
    stopped early, a sentence; averaged: what its last weights are a mean of, and frozen: what became of its lower layers, two others;
    selected: the weights that are used where nobody says which; calibration: of these; rate: how the learning rate was found, a
    sentence; empty where it was given;
    labels, confusion: rows of the validation split by the label they have (down) and the label they got (across), where written;
    by_label: where a row may have several labels, for each of them such a table of rows without it and with it; readout: what the
    head reads, where that was found, and why.
    """

    task: str
    metric: str
    finished: bool
    origin: str = ""
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    last_step: int = 0
    best_step: int = 0
    steps: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    search_seconds: float = 0.0
    adapter_parameters: int | None = None
    head_parameters: int | None = None
    warnings: list[str] = field(default_factory=list)
    stopped: str = ""
    readout: str = ""
    averaged: str = ""
    frozen: str = ""
    selected: str = "last"
    calibration: Calibration | None = None
    rate: str = ""
    labels: tuple[str, ...] = ()
    confusion: list[list[int]] = field(default_factory=list)
    by_label: list[list[list[int]]] = field(default_factory=list)


def passages(outcome: Outcome, history: History, stability: Stability) -> list[Passage]:
    """The whole summary."""
    found = [Passage("The result", [*outcome_words(outcome), *parameter_words(outcome)])]
    if not history.sites:
        return found
    if not history.ticks:
        none = f"There was no search: {on_words(history)}."
        return [*found, Passage("Where the parameters are", [none, *role_words(by_role(history), searched=False)])]
    return [
        *found,
        Passage("Who got the budget", budget_words(history)),
        Passage("Does the choice settle?", stability_words(history, stability)),
        Passage("How far to trust this", trust_words(history)),
    ]


def outcome_words(outcome: Outcome) -> list[str]:
    """How the training went."""
    if outcome.origin:
        return [f"This run was not trained here but {outcome.origin}; it has no curves and no scores of its own."]
    epochs = f"{outcome.epochs:.3g} epoch{'' if outcome.epochs == 1 else 's'}"
    trained = f"{outcome.steps:,} steps ({epochs}) on {outcome.task}"
    if outcome.finished:
        words = [f"The run trained {trained} in {duration(outcome.seconds)}."]
        if outcome.search_seconds:
            words[0] = words[0][:-1] + f", {percent(outcome.search_seconds / outcome.seconds)} of it search."
        words += [f"It {outcome.stopped}."] * bool(outcome.stopped)
        words += [f"{told[:1].upper()}{told[1:]}." for told in (outcome.frozen, outcome.averaged) if told]
    else:
        words = [f"The run is not finished: so far it has recorded {trained}. What follows can still change."]
        if outcome.search_seconds:
            words.append(f"Its search ticks took {duration(outcome.search_seconds)} until now.")
    words += [f"What its head reads was found before the training: {outcome.readout}."] * bool(outcome.readout)
    words += [outcome.rate] * bool(outcome.rate)
    if not outcome.last:
        return [*words, "Nothing has been scored on the validation split yet."]
    words.append(f"Its last score on the validation split: {scores(outcome.last)}.")
    if outcome.best_step == outcome.last_step:
        words.append(f"It is also the best by {outcome.metric}, which is always chosen on this same split.")
    else:
        words.append(
            f"The best by {outcome.metric}, at step {outcome.best_step:,}: {scores(outcome.best)}. The validation split itself "
            "chose it, so it looks better than it is: quote the last score, or one on rows that were not used to choose."
            if outcome.selected == "last"
            else f"The weights used are the best by {outcome.metric}, of step {outcome.best_step:,}: {scores(outcome.best)}. The "
            "validation split itself chose them, so they look better than they are: quote a score on rows that did not choose."
        )
    words += calibration_words(outcome.calibration) if outcome.calibration is not None else []
    return [*words, *(f"Warning: {text}." for text in outcome.warnings)]


def calibration_words(found: Calibration) -> list[str]:
    """How far probabilities are from how often they are right, and what the temperature does to that."""
    words = (
        f"On that split its probabilities are off by {found.before.ece:.4f} on average (the expected calibration error)"
    )
    if found.note:
        return [f"{words}; no temperature was fitted: {found.note}."]
    return [
        f"{words}; by {found.after.ece:.4f} with the temperature of {found.temperature:.4g}, which was fitted on these same rows."
    ]


def parameter_words(outcome: Outcome) -> list[str]:
    """Adapters and head, apart."""
    adapter, head = outcome.adapter_parameters, outcome.head_parameters
    if adapter is None or head is None:
        return []
    words = [f"Trained at the end: {adapter:,} adapter parameters, and {head:,} in the head, which no budget limits."]
    if head > adapter:
        words.append("The head is larger than the adapters, so much of what was learnt may be in the head.")
    return words


def on_words(history: History) -> str:
    """Which sites train in a run without a search."""
    number, total = int(history.on[:, -1].sum()), len(history.sites)
    return f"all {total} sites trained all the time" if number == total else f"{number} of {total} sites trained"


def budget_words(history: History) -> list[str]:
    """Roles, thirds of the layers, shortcuts and projections, v and q."""
    words = [
        f"Over {counted(len(history.ticks), 'tick')}, {history.on.sum(axis=0).mean():.0f} of {len(history.sites)} sites were on "
        "at a time, on average."
    ]
    if not history.priced:
        what = "rank units" if history.ranked else "sites"
        words.append(f"What each site costs is not written yet, so {what} are counted here, each as one.")
    words += role_words(by_role(history), searched=True)
    thirds = by_third(history)
    if thirds:
        layers = layer_thirds(site.layer for site in history.sites)
        parts = [f"the {third.name} third ({span(layers[third.name])}) {percent(third.budget)}" for third in thirds]
        words.append(
            f"By depth: {listed(parts)}; evenly spread it would be {listed([percent(t.even) for t in thirds])}."
        )
    words += [
        f"Projections got {percent(kinds[0].budget)} and shortcuts {percent(kinds[1].budget)}; evenly spread, shortcuts would "
        f"have got {percent(kinds[1].even)}."
        for kinds in [by_kind(history)]
        if kinds
    ]
    compared = value_against_query(history)
    return [*words, value_words(compared)] if compared else words


def role_words(roles: Sequence[Share], *, searched: bool) -> list[str]:
    """The roles with most and with least, against an even spread."""
    if len(roles) < 2:
        return [f"All of it lies in one role, {roles[0].name}."] if roles else []
    ordered = sorted(roles, key=lambda share: -share.budget)
    if not searched:
        parts = [f"{share.name} {percent(share.budget)}" for share in ordered if share.budget]
        return [f"Of the parameters in training, by role: {listed(parts)}."]
    most = [f"{share.name} {percent(share.budget)} ({share.lift:.1f} times its even share)" for share in ordered[:3]]
    words = [f"Most of the budget went to {listed(most)}."]
    if nothing := [share.name for share in ordered if share.budget == 0]:
        words.append(f"Nothing went to {listed(nothing)}.")
    elif len(ordered) > 3:
        least = ordered[-1]
        words.append(
            f"Least went to {least.name}: {percent(least.budget)}, where an even spread would give it {percent(least.even)}."
        )
    return words


def value_words(compared: ValueAgainstQuery) -> str:
    """Whether v was favoured over q, as published for HeteroLoRA."""
    if compared.ranked:
        means = f"mean ranks v {compared.v:.1f}, q {compared.q:.1f}"
    else:
        means = f"v was on {percent(compared.v)} of the time, q {percent(compared.q)}"
    numbers = f"{means}; v had more in {compared.layers_v} of the {compared.layers} layers with both, q in {compared.layers_q}"
    if compared.alike:
        return f"v and q were treated about alike ({numbers}): the published preference for v does not show here."
    if compared.v > compared.q and compared.layers_v <= compared.layers / 2:
        return f"v got more than q, as published for HeteroLoRA, but not in most of the layers ({numbers})."
    if compared.v > compared.q:
        return f"v was favoured over q, as published for HeteroLoRA ({numbers})."
    return f"q was favoured over v, the opposite of what is published for HeteroLoRA ({numbers})."


def stability_words(history: History, stability: Stability) -> list[str]:
    """How much changed from tick to tick."""
    if not stability.moved:
        return ["There was one tick, so nothing could change."]
    words = [] if stability.verdict == "fixed" else change_words(history, stability)
    words.append(VERDICTS[stability.verdict])
    words.append(
        f"Of the sites on at the first tick, {percent(stability.kept)} are on at the last; {stability.always} were on at every "
        f"tick and {stability.never} at none."
    )
    known = stability.correlations
    if known:
        words.append(
            f"The ranking of all sites agrees with that of the tick before at a Spearman correlation of {known[0]:.2f} at "
            f"first and {known[-1]:.2f} at the end (1: the same order; 0: no relation)."
        )
    elif not history.scored:
        words.append("This search records no scores for sites, so there is nothing to say about their ranking.")
    return words


def change_words(history: History, stability: Stability) -> list[str]:
    """Changes at the start and at the end, in sites and where ranks vary in rank units."""
    begun, ended = stability.first_and_last(stability.churn)
    words = [
        f"From one tick to the next, {percent(begun)} of the sites that were on went off in the first third of the changes, "
        f"{percent(ended)} in the last third."
    ]
    if history.ranked:
        begun, ended = stability.first_and_last(stability.moved)
        words.append(f"Counted in rank units that left their site: {percent(begun)} first, {percent(ended)} last.")
    return words


VERDICTS = {
    "unknown": "There are too few ticks to say whether the choice settles.",
    "fixed": "Nothing changed after the first tick.",
    "settles": "The choice settles: hardly anything changes any more.",
    "calms": "The choice calms down, but it still changes at the end.",
    "goes on": "The choice does not settle: it changes about as much at the end as at the start.",
}


def trust_words(history: History) -> list[str]:
    """What one run is worth."""
    words = ["This is one run with one seed: a hint, not a proof. Check whether other seeds choose alike."]
    if history.ticks[-1].proxy == "constant":
        words.append("The constant proxy chooses at random, so who got the budget means nothing here.")
    if history.ticks[0].step == 0 and history.scored:
        words.append(
            "The first tick came before any training, and it counts as much as every other in the shares of the budget."
        )
    return words


def span(layers: Sequence[int]) -> str:
    """``layer 3`` or ``layers 0 to 3``."""
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else "".join(parts)
