"""Ending a training once its score no longer gets better, and which of two scores is the better one.

After each evaluation the score of the recipe's metric is compared with the last one that counted as an improvement: it counts where it
is better by more than ``min_delta``, and after ``patience`` evaluations without one the training ends (Prechelt 1998, Early Stopping -
But When?, the criterion UP with a margin). What it waited for is in the training's state, so that a resumed run stops where the whole
one does. Evaluations before a search has come down to its budget, or an update to what it prunes or freezes, do not count.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.tasks.task import higher_is_better
from lorakit.training.hooks import TrainState

PATIENCE, MIN_DELTA = "patience", "min_delta"


def better(metric: str, scores: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Whether ``scores`` beat ``best``."""
    return gain(metric, scores[metric], best[metric]) > 0


def gain(metric: str, score: float, other: float) -> float:
    """By how much ``score`` is better than ``other``; negative where it is worse."""
    return score - other if higher_is_better(metric) else other - score


def watch(state: TrainState, metric: str, settings: Mapping[str, float]) -> None:
    """Count an evaluation, whose ``state.scores`` are fresh, and set ``state.stopped`` where it was one too many.

    settings: ``patience`` and maybe ``min_delta``; empty: nothing is stopped. After the last step there is nothing to stop.
    """
    if not settings:
        return
    score = state.scores[metric]
    if state.improved is None or gain(metric, score, state.improved) > settings.get(MIN_DELTA, 0.0):
        state.improved, state.waited = score, 0
        return
    state.waited += 1
    state.stopped = state.waited >= settings[PATIENCE] and state.step < state.total_steps


def stopped_words(state: TrainState, metric: str, settings: Mapping[str, float]) -> str:
    """How a training that stopped early ended, and what that saved at the pace it had; empty for any other."""
    if not state.stopped:
        return ""
    margin = settings.get(MIN_DELTA, 0.0)
    than = f" by more than {margin:g}" if margin else ""
    evaluations = f"{state.waited} evaluation{'s' if state.waited > 1 else ''}"
    saved = 1 - state.step / state.total_steps
    return (
        f"stopped at step {state.step:,} of {state.total_steps:,}: {metric} had not become better than {state.improved:.4f}{than} "
        f"for {evaluations}; {saved:.0%} of the steps were saved"
    )
