"""Training steps beside PEFT's, the floor and full fine-tuning: one model, batch, optimiser and clipping, in turn in one process.

    python scripts/bench/steps.py --out results/bench                                        # the bundled encoder, batch 32 x 64
    python scripts/bench/steps.py --out results/bench --sides lora peft:lora --rounds 10
    python scripts/bench/steps.py --out results/gpu --shape roberta-large --precision bf16 --tokens 128 --rounds 50

Sides: a method of lorakit, trained by lorakit's own loop; `graphs:METHOD`, the same with `training.cuda_graphs`; `peft:METHOD`;
`floor`, the frozen model with its trained head, forward and backward through the activations down to the lowest adapted layer; `full`,
everything trained. `quarter` is `lora` as after a search, with the upper quarter of its sites on, and `floor:quarter` its floor.
`adalora` and `peft:adalora` observe and allocate. Every round each side makes one step, in an order that turns, so that what else the
machine does meets all alike. Printed and saved (OUT/steps.json) are the median step and the ratio to the sides that targets are
set against: the median over rounds of paired ratios, with its quartiles; on a GPU each side's peak memory too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import peft
import torch
import yaml
from accelerate import Accelerator
from measuring import clock, made_up, random_model, ratio, timed, training_of, turned
from torch import nn

from lorakit.adapters.method import methods
from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import environment
from lorakit.recipe.load import load_recipe
from lorakit.training.loader import StepBatch
from lorakit.training.loop import Training, step
from lorakit.workflow.setup import assemble, make_accelerator

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SHAPES = {"roberta-base": BASE, "roberta-large": LARGE}  # random weights
SIDES = [
    "lora",
    "dora",
    "adalora",
    "quarter",
    "peft:lora",
    "peft:dora",
    "peft:adalora",
    "floor",
    "floor:quarter",
    "full",
]
AGAINST = {
    "lora": ["peft:lora", "floor", "full"],
    "dora": ["peft:dora"],
    "adalora": ["peft:adalora"],
    "quarter": ["floor:quarter", "lora"],
    "graphs:lora": ["lora", "peft:lora", "floor", "full"],
    "graphs:dora": ["peft:dora"],
    "peft:lora": ["full"],
}
EVERY = 10  # steps between allocations of AdaLoRA
RANK = 8
ROWS = 6400
GRAPHS, QUARTER = "graphs", "quarter"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--model", default="bundled:minilm", help="what is trained, or with --shape whose tokenizer is used"
    )
    parser.add_argument("--shape", choices=list(SHAPES), help="random weights of this shape instead of the model's")
    parser.add_argument("--sides", nargs="+", default=SIDES)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=4, help="first steps of each side, not timed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides, memory = warm(options, Path(folder))
        seconds = race(sides, options.rounds)
    report = {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "sides": {name: {"median": statistics.median(times), "seconds": times} for name, times in seconds.items()},
        "ratios": {
            f"{a} / {b}": ratio(seconds[a], seconds[b]) for a in seconds for b in AGAINST.get(a, []) if b in seconds
        },
        "peak_mib": memory,
        "threads": torch.get_num_threads(),
        "clock": clock(),
        "environment": environment(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "steps.json", report)
    show(report)


def warm(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """What makes a step of each side, after its first steps; on a GPU what the side needs at its peak, model included, in MiB."""
    sides, memory = {}, {}
    for name in options.sides:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        sides[name] = build(name, options, folder)
        for _ in range(options.warmup):
            sides[name]()
        if torch.cuda.is_available():
            memory[name] = (torch.cuda.max_memory_allocated() - held) / 2**20
    return sides, memory


def race(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side's steps."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in turned(list(sides), number):
            seconds[name].append(timed(sides[name]))
    return seconds


def build(name: str, options: argparse.Namespace, folder: Path) -> Callable[[], None]:
    """What makes one step of a side."""
    library, _, method = name.rpartition(":")
    ours = library in ("", GRAPHS) and method not in ("floor", "full")
    plain = method not in methods
    own = folder / name.replace(":", "-")
    recipe = made_recipe("lora" if plain else method, options, folder, own, graphs=library == GRAPHS)
    loaded = load_recipe(recipe)
    accelerator = make_accelerator(loaded.recipe)
    batch = made_up(options.batch_size, options.tokens, accelerator.device)
    if ours:
        training, _ = training_of(str(recipe), [], own / "run")
        training.model.train()
        if method == QUARTER:
            training.adapted.switch(upper_quarter(list(training.adapted.adapters)))
        return partial(acted, training, StepBatch([batch], options.batch_size))
    parts = assemble(loaded)
    model: Any = parts.backbone.model
    sites, head = [site.name for site in parts.sites], parts.backbone.new_parts
    if "floor" in (name, library):
        model.requires_grad_(False)
        for part in head:
            model.get_parameter(part).requires_grad_(True)
        lowest = upper_quarter(sites)[0] if method == QUARTER else sites[0]
        model.get_submodule(lowest).register_forward_pre_hook(from_here)
    elif name == "full":
        model.requires_grad_(True)
    else:
        model = with_peft(model, method, sites, list(head))
    model = model.to(accelerator.device).train()
    return partial(plain_step, model, optimizer_of(model), batch, accelerator, method == "adalora", [0])


def upper_quarter(sites: list[str]) -> list[str]:
    """The last quarter of the sites."""
    return sites[-(len(sites) // 4) :]


def made_recipe(method: str, options: argparse.Namespace, models: Path, folder: Path, graphs: bool) -> Path:
    """A recipe of lorakit for a method on all linear sites."""
    model = random_model(SHAPES[options.shape], models, options.model) if options.shape else options.model
    search: dict[str, Any] = {"method": "none"}
    if method == "adalora":
        every = EVERY * options.batch_size / ROWS
        search = {"method": "adalora", "uniform_rank": RANK, "every": every, "warmup": 0}
    recipe = {
        "model": {"name": str(model)},
        "task": made_up_task(models),
        "adapter": {"method": method, "rank": RANK * 3 // 2 if method == "adalora" else RANK, "targets": ["all"]},
        "search": search,
        "training": {
            "precision": options.precision,
            "batch_size": options.batch_size,
            "cuda_graphs": graphs,
        },
        "run": {"offline": True},
    }
    folder.mkdir()
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def made_up_task(folder: Path) -> dict[str, Any]:
    """A task of ``ROWS`` rows that nobody learns from: the steps take a batch of their own."""
    file = folder / "rows.csv"
    pd.DataFrame({"text": ["a text"] * ROWS, "label": [0, 1] * (ROWS // 2)}).to_csv(file, index=False)
    return {
        "name": "custom",
        "train": str(file),
        "validation": str(file),
        "text": "text",
        "label": "label",
        "metric": "accuracy",
    }


def acted(training: Training, window: StepBatch) -> None:
    """A step of lorakit's loop, with the tick before it where one is due."""
    if training.state.step in training.schedule.ticks:
        training.call("on_tick")
    step(training, window)
    training.losses.clear()
    training.norms.clear()


def plain_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, torch.Tensor],
    accelerator: Accelerator,
    adalora: bool,
    count: list[int],
) -> None:
    """A step as transformers and PEFT are used without lorakit."""
    with accelerator.autocast():
        loss = model(**batch).loss
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    if adalora:
        model.base_model.update_and_allocate(count[0])
    count[0] += 1
    optimizer.zero_grad(set_to_none=True)


def with_peft(model: nn.Module, method: str, sites: list[str], head: list[str]) -> nn.Module:
    """The model with PEFT's adapters on the same modules."""
    common: dict[str, Any] = {
        "target_modules": sites,
        "modules_to_save": sorted({name.split(".")[0] for name in head}),
        "task_type": "SEQ_CLS",
    }
    config: Any
    if method == "adalora":
        config = peft.AdaLoraConfig(
            init_r=RANK * 3 // 2, target_r=RANK, tinit=0, tfinal=10, deltaT=EVERY, total_step=700, **common
        )
    else:
        config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, use_dora=method == "dora", **common)
    return peft.get_peft_model(model, config)  # type: ignore[arg-type,return-value]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over what trains."""
    return torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)


def from_here(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The activations get gradients from here on, as if something below trained."""
    return (inputs[0].detach().requires_grad_(), *inputs[1:])


def show(report: dict[str, Any]) -> None:
    for name, side in report["sides"].items():
        memory = f"  {report['peak_mib'][name]:9,.0f} MiB" if name in report["peak_mib"] else ""
        print(f"{name:14} {1000 * side['median']:9.1f} ms{memory}")
    for pair, value in report["ratios"].items():
        print(f"{pair:24} {value['median']:.3f}  ({value['low']:.3f} to {value['high']:.3f})")


if __name__ == "__main__":
    main()
