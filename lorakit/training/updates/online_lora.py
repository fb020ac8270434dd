"""Online-LoRA: where the loss lies still, the LoRA is frozen and a new one begins (Wei et al. 2024, arXiv 2411.05663).

    dW = s (B_1 A_1 + ... + B_k A_k)    the last one trains; room for `loras` of rank / loras each, side by side: those to come are zero
    gradient += that of the mean loss on the `hard_rows` rows of the largest loss so far
              + importance Omega (theta - theta*)              theta: A_k and B_k
    plateau   the last `window` losses have a mean below `loss_mean` and a variance below `loss_variance`; after one, another may come
              once their mean rose above its mean by its deviation
    at one    Omega <- (1 - 1/n) Omega + 1/n sum over hard rows (d -log p(y*) / d theta)^2        n: plateaus, y*: what the model answers
              theta* <- where the next LoRA starts; where there is no room for one, where this one is

No step is told where a task ends: losses, Omega and hard rows go on in a run that starts from this one (`adapter.start`). Rows of the run
before are answered by the head that it ended with, and the adapter alone learns from them. What comes out merges, exports and loads as
any LoRA.
Defaults, Omega and what comes after what are those of the authors' code (commit 499a13f).
Differs from the authors' code in: it adds A_k to A and B_k to B, which is not the sum of the products, and starts both at zero, where
neither has a gradient; its hard rows are whole batches, whose losses are added up, and in its window too, which need not be full; it
looks for no plateau in the first task, by the task's number. Its thresholds are for hundreds of classes: with few the mean always lies
below, and the variance decides. Of a sequence every run has a schedule and an optimiser of its own, which do know where it begins.
Set by `continual.method: online_lora` of a sequence of tasks (the README of `workflow`).
When to use it: for a stream whose shifts nobody marks, where a few rows may be kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.deltas.low_rank import LowRank
from lorakit.adapters.init import inits
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.artifacts.adapter_file import read_head
from lorakit.artifacts.run import Run
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import Recipe
from lorakit.searching.over_processes import over_processes
from lorakit.searching.scoring import without_trace
from lorakit.tasks.batching import IDLE, Batch, SummedLoss, encoded_rows
from lorakit.tasks.long_texts import WINDOWS
from lorakit.tasks.tokens import Tokens
from lorakit.training.checkpoint import kept_state
from lorakit.training.held_units import HeldUnits, factors_of, held_parameters
from lorakit.training.hooks import TrainState
from lorakit.training.update import Update, UpdateContext, chosen_updates, needs_delta, no_single_class, updates

logger = logging.getLogger(__name__)

OMEGA, START, HEAD = "omega", "start", "head"


@dataclass
class Plateaus:
    """Tells where a loss lies still.

    window: the last losses; last: mean and variance at the last plateau; open: whether another may come.
    """

    length: int
    mean: float
    variance: float
    window: list[float] = field(default_factory=list)
    last: tuple[float, float] = (0.0, 0.0)
    open: bool = True

    def see(self, loss: float) -> bool:
        """Whether a plateau is reached with this loss."""
        self.window = [*self.window, loss][-self.length :]
        mean, variance = float(np.mean(self.window)), float(np.var(self.window))
        if not self.open and mean > self.last[0] + math.sqrt(self.last[1]):
            self.open = True
        reached = self.open and len(self.window) == self.length and mean < self.mean and variance < self.variance
        if reached:
            self.last, self.open = (mean, variance), False
        return reached


@dataclass(frozen=True)
class HardRow:
    """A row of this run, or of an earlier one: its tokens, their types where there are such, the number of its label; run: from 1, whose
    head answers it, 0 is this one's."""

    ids: list[int]
    types: list[int] | None
    label: int
    run: int = 0


class OnlineLoRA(Update):
    """active: which LoRA trains, from 0; number: plateaus so far; hard: the rows of the largest losses; heads: earlier run -> its head's
    tensors; seen: (loss, row) of the hardest rows of this step so far; total: their number and the sum of their losses, of all rows of
    the step.
    """

    name = "online_lora"
    summary = (
        "where the loss lies still the LoRA is frozen and a new one begins, held near its start where that is important"
    )
    source = "Wei et al. 2024, Online-LoRA, arXiv 2411.05663"
    fixes_entries = True
    options: ClassVar = {
        "loras": Option(8, "LoRAs that there is room for, side by side in adapter.rank", low=1),
        "window": Option(5, "losses that are looked at for a plateau", low=2),
        "loss_mean": Option(6.0, "below which their mean lies at a plateau", above=0.0),
        "loss_variance": Option(0.1, "below which their variance lies at one", above=0.0),
        "hard_rows": Option(4, "rows of the largest loss that are kept", low=1),
        "importance": Option(2000.0, "weight of Omega's penalty", low=0.0),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs plain LoRAs of one rank, rows of one class in one piece, and gradients that are not scaled."""
        chosen, init = chosen_updates(recipe), inits.get(spec.init)
        own = next((given for kind, given in chosen if kind is cls), {})
        loras, row = cls.settings_from(own)["loras"], no_single_class(recipe.task)
        twice = [kind.name for kind, given in chosen if kind.times_a_row(kind.settings_from(given)) > 1]
        problems = needs_delta(cls.name, LowRank.name, spec)
        if not problems and not (spec.trains("A") and spec.trains("B")):
            problems.append(
                Problem(f"whole LoRAs learn, and '{spec.trainable}' alone trains", key="adapter.trainable", valid="all")
            )
        wrong = {
            "adapter.rank": spec.rank % loras
            and (f"{spec.rank} rank units are divided among {loras} LoRAs", f"a multiple of {loras}"),
            "adapter.decomposition": spec.decomposition != "none"
            and ("LoRAs stay as they are, and a magnitude in common would scale them", "none"),
            "adapter.init": (init.anchors or init.quantises)
            and (f"a LoRA starts at zero, and init '{init.name}' starts all elsewhere", "kaiming or another that does"),
            "adapter.updates": twice
            and (f"it ranks rows by their loss, and update '{twice[0]}' has each twice in a step", "others"),
            "search.method": recipe.search.method != "none" and ("a search takes rank units or sites out", "none"),
            "task.name": row
            and (f"its rows are of one class, and here a row has {row}", "a task with one of several classes a row"),
            "task.long": recipe.task.long == WINDOWS
            and ("a row that is kept is in one piece", "truncate or head_tail with it"),
            "training.precision": recipe.training.precision == "fp16"
            and ("it takes a gradient of its own, without the scaled loss that float16 needs", "fp32 or bf16 with it"),
            "training.freeze_below": recipe.training.freeze_below
            and (
                "kept rows pass the whole model, whose lower layers have dropout that frozen ones have not",
                "null with it",
            ),
        }
        problems += [Problem(found[0], key=key, valid=found[1]) for key, found in wrong.items() if found]
        return [
            replace(each, what=f"update '{cls.name}': {each.what}") if cls.name not in each.what else each
            for each in problems
        ]

    @classmethod
    def holds(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> int:
        """All LoRAs but the one that trains."""
        found, loras = factors_of(adapted, LowRank), settings["loras"]
        return sum(held_parameters([(a, b)], len(a) // loras * (loras - 1)) for a, b in found)

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        settings = self.settings
        self.units = HeldUnits(factors_of(context.adapted, LowRank))
        self.parameters = [tensor for factors in self.units.factors for tensor in factors]
        self.plateaus = Plateaus(settings["window"], settings["loss_mean"], settings["loss_variance"])
        self.active, self.number = 0, 0
        self.omega: list[torch.Tensor] = []
        self.start: list[torch.Tensor] = []
        self.hard: list[HardRow] = []
        self.heads: dict[int, dict[str, torch.Tensor]] = {}
        self.seen: list[tuple[float, HardRow]] = []
        self.total = [0.0, 0.0]
        if context.recipe.adapter.start and context.fresh:
            self.go_on(Path(context.recipe.adapter.start))

    def go_on(self, start: Path) -> None:
        """From where the run ``start`` ended. RecipeError where that was no training with this update."""
        found = kept_state(Run(start), self.name)
        if found is None:
            what = f"update '{self.name}' goes on from where it ended, and {start} has kept nothing of it"
            raise RecipeError(what, key="adapter.start", valid="null, or a run with this update and its checkpoints")
        state, tensors = found
        if state["loras"] != (here := self.settings["loras"]):
            what = f"update '{self.name}' has room for {state['loras']} LoRAs in {start}, and for {here} here"
            raise RecipeError(what, key="adapter.update_options", valid=f"loras: {state['loras']}")
        read = load_recipe(Run(start).recipe).recipe.model.readout
        if read != self.context.recipe.model.readout:
            what = f"update '{self.name}' has rows of {start} answered by its head, which reads something else"
            raise RecipeError(what, key="model.readout", valid=read)
        self.remember(state)
        self.load_tensor_state(tensors)
        run = 1 + max(self.heads, default=0)
        self.heads[run] = self.on_device(read_head(self.context.adapted, Run(start).weights("last")))
        self.hard = [row if row.run else replace(row, run=run) for row in self.hard]

    def on_device(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same where the model is."""
        device = self.context.objective.accelerator.device
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    # -- the loss, and what it was of each row ----------------------------------------------------------------------------

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss itself; the rows that are hard are looked at."""

        def watched(model: nn.Module, batch: Batch) -> torch.Tensor:
            heard: list[torch.Tensor] = []
            handle = self.context.adapted.model.register_forward_hook(lambda *given: heard.append(given[-1].logits))
            try:
                summed = loss(model, batch)
            finally:
                handle.remove()
            if IDLE not in batch:
                self.look(heard[-1].detach().float(), batch)
            return summed

        return watched

    def look(self, logits: torch.Tensor, batch: Batch) -> None:
        """Remember the hardest rows of a batch, by its logits (rows, classes)."""
        losses = F.cross_entropy(logits, batch["labels"].to(logits.device), reduction="none")
        self.total = [self.total[0] + len(losses), self.total[1] + float(losses.double().sum())]
        for place in losses.topk(min(self.settings["hard_rows"], len(losses))).indices.tolist():
            text = batch["attention_mask"][place].bool()
            types = batch["token_type_ids"][place][text].tolist() if "token_type_ids" in batch else None
            ids, label = batch["input_ids"][place][text].tolist(), int(batch["labels"][place])
            self.seen.append((float(losses[place]), HardRow(ids, types, label)))

    def before_forward(self, state: TrainState) -> None:
        """What was computed between steps is none of one."""
        self.forget_step()

    # -- a step -----------------------------------------------------------------------------------------------------------

    def on_train_begin(self, state: TrainState) -> None:
        """All LoRAs but one stay."""
        self.units.hold(self.free)

    @property
    def free(self) -> slice:
        """The rank units of the LoRA that trains."""
        each = len(self.units.factors[0][0]) // self.settings["loras"]
        return slice(self.active * each, (self.active + 1) * each)

    def training_parts(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Of A, B, A, B, ... what belongs to the LoRA that trains."""
        return [each[:, self.free] if place % 2 else each[self.free] for place, each in enumerate(tensors)]

    def after_backward(self, state: TrainState) -> None:
        """Add what hard rows and Omega say; what stays takes no part in the gradient's norm."""
        if self.hard:
            seed = int(torch.randint(2**31, (), generator=self.context.generator))
            with without_trace(self.context.adapted, train_mode=True, seed=seed, all_on=False), torch.enable_grad():
                losses = self.losses(self.hard)
                gradients = torch.autograd.grad(losses.mean(), self.parameters, allow_unused=True)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            self.seen += zip(losses.tolist(), self.hard, strict=True)
        if self.omega and all(parameter.grad is not None for parameter in self.parameters):
            weight, now = self.settings["importance"], self.training_parts([each.detach() for each in self.parameters])
            slopes = self.training_parts([cast(torch.Tensor, each.grad) for each in self.parameters])
            for slope, omega, value, start in zip(slopes, self.omega, now, self.start, strict=True):
                slope += weight * omega * (value - start)
        self.units.drop_gradients()

    def losses(self, rows: Sequence[HardRow]) -> torch.Tensor:
        """The cross-entropy of each row (rows,), under the head of its run."""
        found: dict[int, torch.Tensor] = {}
        for run in dict.fromkeys(row.run for row in rows):
            places = [place for place, row in enumerate(rows) if row.run == run]
            logits, labels = self.logits(run, [rows[place] for place in places])
            found |= zip(places, F.cross_entropy(logits, labels, reduction="none"), strict=True)
        return torch.stack([found[place] for place in range(len(rows))])

    def logits(self, run: int, rows: Sequence[HardRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, classes), and the labels (rows,), of rows of one run."""
        backbone, objective = self.context.adapted.backbone, self.context.objective
        types = None if rows[0].types is None else np.concatenate([np.asarray(row.types, np.int8) for row in rows])
        lengths = np.array([len(row.ids) for row in rows])
        tokens = Tokens(lengths, np.concatenate([np.asarray(row.ids, np.int32) for row in rows]), types, 0, 0)
        labels = torch.tensor([row.label for row in rows])
        batch = encoded_rows(tokens, backbone.tokenizer, labels=labels, padding=backbone.padding).collate(
            range(len(rows))
        )
        head, model = self.heads.get(run, {}), self.context.adapted.model
        under = (lambda **inputs: functional_call(model, head, kwargs=inputs)) if head else model
        logits = objective.logits(cast(nn.Module, under), batch)
        return logits, labels.to(logits.device)

    def after_step(self, state: TrainState) -> None:
        """Put back what stays, look for a plateau, and keep the hardest rows."""
        self.units.put_back()
        rows, summed = over_processes(torch.tensor(self.total, dtype=torch.float64)).tolist()
        kept = {id(row) for row in self.hard}
        fresh = [pair for pair in self.seen if id(pair[1]) not in kept]
        if self.context.objective.accelerator.num_processes > 1:
            fresh = gather_object(fresh)
        pairs = [*fresh, *(pair for pair in self.seen if id(pair[1]) in kept)]
        self.forget_step()
        if not all(math.isfinite(loss) for loss in [summed, *(loss for loss, _ in pairs)]):
            return
        if self.plateaus.see(summed / rows) and self.hard:
            self.rest()
            logger.info("step %d: a plateau, number %d; LoRA %d trains", state.step, self.number, self.active + 1)
        pairs.sort(key=lambda pair: (-pair[0], pair[1].ids))
        self.hard = [row for _, row in pairs[: self.settings["hard_rows"]]]

    def after_trial_step(self) -> None:
        """Put back what stays, and forget the rows."""
        self.units.put_back()
        self.forget_step()

    def forget_step(self) -> None:
        """Of the rows of this step."""
        self.seen, self.total = [], [0.0, 0.0]

    # -- a plateau ----------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """What is important is so for the LoRA that comes now; the one that trained stays, where there is room for another."""
        self.number += 1
        found = self.importance()
        share = 1 / self.number
        self.omega = [share * new + (1 - share) * old for new, old in zip(found, self.omega or found, strict=True)]
        if self.active + 1 < self.settings["loras"]:
            self.active += 1
            self.units.hold(self.free)
        self.start = [part.detach().clone() for part in self.training_parts(self.parameters)]

    def importance(self) -> list[torch.Tensor]:
        """The squared gradients of -log p of what the model answers to each hard row, summed; of the LoRA that trains."""
        found = [torch.zeros_like(part) for part in self.training_parts(self.parameters)]
        with without_trace(self.context.adapted, train_mode=False, seed=0, all_on=False), torch.enable_grad():
            for row in self.hard:
                logits, _ = self.logits(row.run, [row])
                surprise = -logits.log_softmax(dim=-1).max()
                gradients = torch.autograd.grad(surprise, self.parameters)
                for sum_, part in zip(found, self.training_parts(gradients), strict=True):
                    sum_ += part.square()
        return found

    # -- checkpoints --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a later run goes on from, too."""
        plateaus = {"window": self.plateaus.window, "last": [*self.plateaus.last], "open": self.plateaus.open}
        rows = [vars(row) for row in self.hard]
        counts = {"loras": self.settings["loras"], "active": self.active, "number": self.number}
        return super().state_dict() | {**counts, "hard": rows, **plateaus}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.remember(state)

    def remember(self, state: Mapping[str, Any]) -> None:
        """All of ``state_dict()`` but where the stream stands."""
        self.active, self.number = state["active"], state["number"]
        self.hard = [HardRow(**row) for row in state["hard"]]
        self.plateaus.window, self.plateaus.open = [*state["window"]], state["open"]
        self.plateaus.last = (state["last"][0], state["last"][1])

    def tensor_state(self) -> dict[str, torch.Tensor]:
        """Omega, where the LoRA that trains started, and the heads of earlier runs that rows still have."""
        held = {OMEGA: self.omega, START: self.start}
        kept = {f"{name}.{place}": each for name, tensors in held.items() for place, each in enumerate(tensors)}
        heads = {run: self.heads[run] for run in {row.run for row in self.hard} - {0}}
        return kept | {f"{HEAD}.{run}.{part}": each for run, head in heads.items() for part, each in head.items()}

    def load_tensor_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continue from them."""
        here = self.on_device(tensors)
        number = sum(name.startswith(f"{OMEGA}.") for name in here)
        self.omega = [here[f"{OMEGA}.{place}"] for place in range(number)]
        self.start = [here[f"{START}.{place}"] for place in range(number)]
        self.heads = {}
        for name, tensor in here.items():
            if name.startswith(f"{HEAD}."):
                _, run, part = name.split(".", 2)
                self.heads.setdefault(int(run), {})[part] = tensor


updates.register(OnlineLoRA)
