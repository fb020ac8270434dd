"""Every registered method on real text with the bundled encoder, at its usual settings and about the same budget: one table.

    python scripts/every_method.py --out results/methods     # SST-2, 4,000 rows, 2 epochs: about a minute a method on 2 cores

Each method keeps its usual targets and learning rate; its rank is the one whose parameters come closest to the budget (LoRA's
of rank 8 on q and v). Methods that cannot come near it keep what they have, and the table says so. Needs $LORAKIT_GLUE_DIR.
What is finished is not repeated, so the script can be stopped and started again. Writes OUT/results.json and prints the table.
The last epoch is what is compared; no setting was chosen on the validation split.
"""

from __future__ import annotations

import argparse
import json
import shutil
import traceback
from pathlib import Path
from typing import Any

from lorakit.adapters.conflicts import conflicts
from lorakit.adapters.counting import costs, shared_cost
from lorakit.adapters.delta import deltas
from lorakit.adapters.method import Method, methods, resolve
from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import environment
from lorakit.backbone.load import Backbone, load_backbone
from lorakit.errors import LorakitError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import AdapterSection, ModelSection
from lorakit.workflow.train import train

HIGHEST_RANK = 64  # where a method itself sets no limit
RECIPE = "mrpc-lora"  # for what is not said here
UNSET = ["adapter.targets=null", "adapter.alpha=null", "adapter.shortcuts=[]", "training.lr=null"]
STORES = {  # what these methods' frozen weights are kept in
    "loftq": ["model.quantization=nf4"],
    "lq_lora": ["model.quantization=mixed", "model.quantization_bits=2.75"],
    "qa_lora": ["model.quantization=int4"],
    "qpissa": ["model.quantization=nf4"],
}
BASE = ["model.name=bundled:minilm", "training.batch_size=32", "run.offline=true", "run.keep_checkpoints=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=methods.names())
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe keys for all methods")
    parser.add_argument("--label", default="", help="keeps these results apart, e.g. a learning rate that was tried")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    settings = [*BASE, f"task.max_train_rows={options.rows}", f"training.epochs={options.epochs:g}", *options.set]
    model = ModelSection(name="bundled:minilm")
    backbone = load_backbone(model, labels=("0", "1"), regression=False, seed=0, offline=True)
    budget = parameters(backbone, methods.get("lora"), 8)
    for name in options.methods:
        for seed in options.seeds:
            file = options.out / f"{name}{options.label}-{options.task}-{seed}.json"
            if not file.exists():
                result = one(backbone, name, budget, options, seed, settings)
                write_json(file, result)
                print(line(result), flush=True)
    results = [json.loads(path.read_text()) for path in sorted(options.out.glob("*-*-*.json"))]
    write_json(options.out / "results.json", {"budget": budget, "results": results, "environment": environment()})
    print("\n".join(line(result) for result in sorted(results, key=lambda r: -r.get("last", 0.0))))


def one(
    backbone: Backbone, name: str, budget: int, options: argparse.Namespace, seed: int, settings: list[str]
) -> dict[str, Any]:
    """One training of the method; where it fails, why."""
    method: Method = methods.get(name)
    rank = nearest_rank(backbone, method, budget)
    keys = [f"adapter.method={name}", f"adapter.rank={rank}", f"task.name={options.task}", f"run.seed={seed}"]
    told = {"method": name + options.label, "task": options.task, "seed": seed, "rank": rank}
    folder = options.out / "runs" / f"{name}{options.label}-{options.task}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        loaded = load_recipe(RECIPE, [*UNSET, *keys, *STORES.get(name, []), *settings])
        run = train(loaded, run_dir=folder)
    except LorakitError as error:
        return told | {"error": str(error)}
    except Exception:
        return told | {"error": traceback.format_exc()}
    return told | {
        "lr": loaded.recipe.training.lr,
        "targets": loaded.recipe.adapter.targets,
        "parameters": run.adapter_parameters,
        "last": run.last[run.metric],
        "best": run.best[run.metric],
        "metric": run.metric,
        "loss": [entry["loss"] for entry in metrics(folder) if "loss" in entry],
        "seconds": run.seconds,
    }


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def parameters(backbone: Backbone, method: Method, rank: int) -> int:
    """Trained parameters of the method at ``rank`` on its usual targets."""
    section = AdapterSection(method=method.name, rank=rank)
    spec = resolve(section)
    assert not conflicts(spec)
    sites = method.sites(backbone)
    return sum(costs(sites, spec, spec).values()) + shared_cost(sites, spec, spec)


def nearest_rank(backbone: Backbone, method: Method, budget: int) -> int:
    """The rank whose parameters come closest to the budget; the usual one where rank makes no difference, or none comes near."""
    delta = deltas.get(method.delta)
    sites = method.sites(backbone)
    limits = [limit for site in sites if (limit := delta.highest_rank(site)) is not None]
    highest = max(method.rank, min([HIGHEST_RANK, *limits]))
    fits = [rank for rank in range(1, highest + 1) if fitting(backbone, method, rank)]
    if parameters(backbone, method, fits[0]) > 2 * budget:
        return method.rank
    return min(fits, key=lambda rank: (abs(parameters(backbone, method, rank) - budget), abs(rank - method.rank)))


def fitting(backbone: Backbone, method: Method, rank: int) -> bool:
    """Whether the delta can sit on every usual site at this rank."""
    spec = resolve(AdapterSection(method=method.name, rank=rank))
    delta = deltas.get(spec.delta)
    sites = method.sites(backbone)
    return not any(delta.refusal(site, rank, dict(spec.options)) for site in sites)


def line(result: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in result:
        return f"{result['method']:24} {result['error'].strip().splitlines()[-1]}"
    return (
        f"{result['method']:24} rank {result['rank']:>3}  {result['parameters']:>10,} parameters  lr {result['lr']:<7g} "
        f"last {result['last']:.4f}  best {result['best']:.4f}  loss {result['loss'][-1]:.3f}  {result['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
