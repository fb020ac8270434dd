"""Delta-LoRA: the frozen weight moves with the product of the factors (Zi et al. 2023, arXiv 2309.02411).

    W <- W + lambda s (B_t+1 A_t+1 - B_t A_t)        after every step t >= K

The change of B A stands in for a gradient of W, so W learns without one, and without moments. As lambda is constant the pushes sum to
lambda s (B A - B_K A_K): that is what is computed and kept (delta `pushed`), no weight is rewritten, and a quantised one will do.
K is `start`: a share of the steps, or a number of them; lambda is `push`. What weight decay takes from A and B counts as a change.
No dropout of the adapter's inputs, as in the paper: with it the gradient of B A is not that of W.
Not checked against the authors' code, which was not reached: follows the method section of the paper. A third party's was read, whose
lambda of 2 is the default here; a tenth of the steps is ours, the paper chooses K by task.
When to use it: with delta `pushed`, where LoRA at its rank and rate learns too little.
"""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.deltas.pushed import Pushed
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.training.hooks import TrainState
from lorakit.training.schedule import share_or_steps
from lorakit.training.update import Update, UpdateContext, needs_delta, starts_fresh, updates

HOLDS_WITH = ("none", "heterolora")


class DeltaLoRA(Update):
    """start: K, the steps that are done before W is pushed."""

    name = "delta_lora"
    summary = "W moves by lambda times every change of the product s B A"
    source = "Zi et al. 2023, Delta-LoRA, arXiv 2309.02411"
    fixes_entries = True
    options: ClassVar = {
        "push": Option(2.0, "lambda: how far W moves for every change of B A", low=0),
        "start": Option(0.1, "K, after which W moves: below 1 a share of the steps, else a number of steps", low=0),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs its delta, no dropout, and a search that takes whole sites."""
        problems = [*needs_delta(cls.name, Pushed.name, spec), *starts_fresh(cls.name, recipe)]
        if spec.dropout > 0:
            what = "update 'delta_lora' takes the change of B A for that of W, which sees every input, and dropout hides some from B A"
            problems.append(Problem(what, key="adapter.dropout", valid="0"))
        if recipe.search.method not in HOLDS_WITH:
            what = f"update 'delta_lora' has pushed W by every rank unit, and search '{recipe.search.method}' chooses among them"
            problems.append(Problem(what, key="search.method", valid=", ".join(HOLDS_WITH)))
        return problems

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        adapters = context.adapted.adapters.values()
        self.pushed = [adapter.delta for adapter in adapters if isinstance(adapter.delta, Pushed)]
        total = context.schedule.total_steps
        self.start = share_or_steps(self.settings["start"], total)
        if self.start >= total:
            raise RecipeError(
                f"update 'delta_lora' would begin after step {self.start}, and this training has {total}",
                key="adapter.update_options",
                valid=f"start: 0 to {total - 1}, or a share below 1",
            )
        if self.start == 0:
            self.begin()

    def settled(self, state: TrainState) -> bool:
        """Whether W moves."""
        return state.step >= self.start

    def after_step(self, state: TrainState) -> None:
        """Begin once K steps are done."""
        if state.step == self.start:
            self.begin()

    def begin(self) -> None:
        """From here on W moves with the factors, of all sites."""
        for delta in self.pushed:
            delta.begin(self.settings["push"])


updates.register(DeltaLoRA)
