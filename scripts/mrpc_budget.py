"""HeteroLoRA against uniform LoRA on MRPC at equal parameters, over several seeds, on the bundled encoder.

    python scripts/mrpc_budget.py --out results/mrpc            # 3 seeds, about 8 minutes a run on 2 cores

Needs $LORAKIT_GLUE_DIR. A run that is finished is not repeated, so the script can be stopped and started again. Writes OUT/results.json
and prints one table. The last epoch is what is compared; the best epoch was chosen on the validation split itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lorakit.artifacts.run import Run, environment
from lorakit.recipe.load import load_recipe
from lorakit.report.stats import paired_difference, summarise
from lorakit.workflow import train

RECIPES = ("mrpc-lora", "mrpc-heterolora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe keys for both sides")
    options = parser.parse_args()
    settings = [
        "model.name=bundled:minilm",
        f"training.epochs={options.epochs:g}",
        f"training.lr={options.lr:g}",
        "training.batch_size=32",
        "run.offline=true",
        *options.set,
    ]
    rows = {recipe: [one_run(recipe, seed, options.out, settings) for seed in options.seeds] for recipe in RECIPES}
    report = {"settings": settings, "seeds": options.seeds, "runs": rows, "environment": environment()}
    (options.out / "results.json").write_text(json.dumps(report, indent=2) + "\n")
    show(rows)


def one_run(recipe: str, seed: int, out: Path, settings: list[str]) -> dict[str, Any]:
    """The summary of one training, done now if it was not done before."""
    run = Run(out / f"{recipe}-{seed}")
    if not run.finished:
        train(load_recipe(recipe, [*settings, f"run.seed={seed}"]), run_dir=run.path, resume=run.recipe.exists())
    return run.summary()


def show(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Accuracy of the last and the best epoch over the seeds, parameters, time, and the paired difference."""
    for recipe, runs in rows.items():
        last, best = ([run[which]["accuracy"] for run in runs] for which in ("last", "best"))
        seconds = sum(run["seconds"] for run in runs)
        share = sum(run["search_seconds"] for run in runs) / seconds
        print(
            f"{recipe:16} {runs[0]['adapter_parameters']:>8,} parameters   last {spread(last)}   best {spread(best)}   "
            f"{seconds / len(runs):.0f} s a run, {share:.0%} of it search"
        )
    first, second = ([run["last"]["accuracy"] for run in rows[recipe]] for recipe in RECIPES)
    gap = paired_difference(second, first)
    print(f"difference of the last epoch: {gap.mean:+.4f}, interval {gap.low:+.4f} to {gap.high:+.4f}, {gap.n} pairs")


def spread(values: list[float]) -> str:
    """``0.7712 ± 0.0031 (0.7696 0.7745 0.7696)``."""
    centre = summarise(values)
    return f"{centre.mean:.4f} ± {centre.sd:.4f} ({' '.join(f'{value:.4f}' for value in values)})"


if __name__ == "__main__":
    main()
