"""Ending drawn trials early that fall behind: asynchronous successive halving (ASHA) and Hyperband, by rows held out of training rows.

A trial's first seed is watched. At its evaluations 1, 3, 9, 27, ..., the rungs, a trial goes on where its score there is among the best
third of all that have come to this rung so far, of fewer than three where it is the best; all others end. Who comes first is compared
with nobody and goes on. A trial that comes through has its other seeds trained in full. Source: Li et al. 2020, A System for Massively
Parallel Hyperparameter Tuning, algorithm 2, with eta = 3, in the form that Optuna's SuccessiveHalvingPruner gives it: who is not
promoted at once ends, and does not wait for others to fall behind it. After the last evaluation there is nothing to save by an end.

Hyperband (Li et al. 2018, Hyperband, algorithm 1) does so in brackets, for who learns slowly: in the s-th the rungs are the evaluations
3^s, 3^(s+1), ..., and only trials of one bracket are compared. With R evaluations there are S = floor(log3 R) + 1 of them. Which one a
trial is in Optuna's HyperbandPruner draws from the study's name and the trial's number, with shares as ceil(S 3^(S-1-s) / (S - s)), the
paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial

from lorakit.artifacts.run import Run
from lorakit.training.hooks import Hook, TrainState
from lorakit.workflow.experiments.ranking import Reached
from lorakit.workflow.experiments.workers import GivenUp

FIRST, ETA = 1, 3  # the first rung's evaluation, and how many trials come to a rung for one that goes on
RUNG = "completed_rung_"  # how Optuna calls the score that a trial had at a rung


class Halving(SuccessiveHalvingPruner):
    """Optuna's successive halving, to which a trial that was tried again counts once."""

    def __init__(self) -> None:
        super().__init__(min_resource=FIRST, reduction_factor=ETA)

    def prune(self, study: Any, trial: FrozenTrial) -> bool:
        """Whether the trial ends here."""
        return super().prune(Counted(study), trial)  # type: ignore[arg-type]


class Brackets(HyperbandPruner):
    """Optuna's Hyperband, in which a trial that was tried again counts once, in the bracket that it was in at first.

    evaluations: of a training that goes to its end.
    """

    def __init__(self, evaluations: int) -> None:
        super().__init__(min_resource=FIRST, max_resource=evaluations, reduction_factor=ETA)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial ends here."""
        bracket = self._get_bracket_id(study, trial)
        return self._pruners[bracket].prune(Counted(self._create_bracket_study(study, bracket)), trial)  # type: ignore[arg-type]

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if not self._pruners:
            self._try_initialization(study)
        first, number = copy(trial), RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
        first.number = trial.number if number is None else number
        return super()._get_bracket_id(study, first)


def pruner_for(rule: str | None, evaluations: int) -> BasePruner:
    """Of ``asha`` or ``hyperband``; one that ends nothing where there is no rule."""
    if rule is None:
        return NopPruner()
    return Halving() if rule == "asha" else Brackets(evaluations)


class Counted:
    """A study without the trials that another one tries again: that one comes to the same rungs with the same scores."""

    def __init__(self, study: optuna.Study):
        self.study = study

    def get_trials(self, **how: Any) -> Sequence[FrozenTrial]:
        """Those that count."""
        trials = self.study.get_trials(**how)
        again = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        return [trial for trial in trials if trial.number not in again]

    def __getattr__(self, name: str) -> Any:
        """Everything else is the study's."""
        return getattr(self.study, name)


def without_rungs(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna keeps of a trial but for its rungs, to which the trial that tries it again comes by itself."""
    return {name: value for name, value in attributes.items() if not name.startswith(RUNG)}


class Watched(Hook):
    """Tells a trial every score of its first seed's run, also those of a run that goes on, and ends a training that has fallen behind."""

    def __init__(self, trial: optuna.Trial, metric: str):
        self.trial = trial
        self.metric = metric
        self.run: Run | None = None
        self.told = 0

    def look(self, run: Run) -> None:
        """Tell what the run, which is watched from here on, came to so far. Raises GivenUp where that is too little to go on."""
        self.run = run
        self.tell(ended=run.finished)

    def on_evaluation(self, state: TrainState) -> None:
        """The same of an evaluation that is just done."""
        self.tell(ended=state.stopped or state.step == state.total_steps)

    def tell(self, *, ended: bool) -> None:
        """Tell the scores that were not told yet. ended: whether the training is over, so that all of it is done already."""
        if self.run is None:
            raise RuntimeError("look(run) first")
        for number, record in enumerate(filter(scored, self.run.metrics()), start=1):
            if number <= self.told:
                continue
            self.told, score = number, record["scores"][self.metric]
            self.trial.report(score, number)
            if self.trial.should_prune() and not ended:
                self.trial.set_user_attr("reached", Reached(number, record["epoch"], score).to_dict())
                raise GivenUp(f"at epoch {record['epoch']:.3g} with {score:.4f} on the rows held out")


def scored(record: Mapping[str, Any]) -> bool:
    """Whether a record of a run is of an evaluation."""
    return "scores" in record
