"""Peak memory of whole trainings, each in a fresh process: beside PEFT's, with recomputed layers, and beside what `lorakit plan` says.

    python scripts/bench/memory.py --out results/memory               # lorakit and PEFT on the same rows, batches and steps; long texts
    python scripts/bench/memory.py --out results/memory --plan        # what is predicted beside what is measured, setting by setting
    python scripts/bench/memory.py --out results/memory --optimizers  # the same of full fine-tuning, optimiser by optimiser

Sides of the first: `lorakit`, a run with all it writes; `peft`, a loop by hand that tokenises the same file, makes the same batches in
the same order, evaluates as often and saves its adapter; `long` and `long recomputed`, lorakit on rows of 512 tokens without and with
training.gradient_checkpointing. Memory is the kernel's high-water mark of resident memory (VmHWM), everything in it: Python, libraries,
model, data. Printed and saved (OUT/memory.json) are medians, and lorakit's ratio to PEFT by rounds.

With --plan (OUT/plan.json) and --optimizers (OUT/optimizers.json) the predicted and the measured number are both what training
needs beside the loaded model: activations, gradients and moments. Measured: the high-water mark during the loop, reset before
it, less the resident memory before it, when model, data and libraries are there. A training of one step before it, of which no
array is left, has made the libraries load what they load late: for bfloat16 on a CPU oneDNN compiles some 15 MiB of kernels.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RANK, SEED, ROWS, STEPS, LENGTH, BATCH = 8, 0, 512, 16, 64, 32
LONG = 512
WORDS = ["a", "film", "of", "quiet", "wonders", "and", "not", "one", "dull", "scene", "the", "old", "man", "sun"]
MINILM = "bundled:minilm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true")
    what.add_argument("--optimizers", action="store_true")
    parser.add_argument("--models", nargs="+", default=[MINILM], help="each is measured; the first alone beside PEFT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        print(json.dumps({"lorakit": lorakit_side, "peft": peft_side, "plan": plan_side}[job["side"]](job)))
        return
    if options.out is None:
        parser.error("--out is missing")
    from lorakit.artifacts.files import write_json
    from lorakit.artifacts.run import environment

    with tempfile.TemporaryDirectory() as name:
        wanted = SETTINGS if options.plan else OPTIMIZERS if options.optimizers else None
        report = planned(options, Path(name), wanted) if wanted else compared(options, Path(name))
    report["environment"] = environment()
    options.out.mkdir(parents=True, exist_ok=True)
    report_name = "plan" if options.plan else "optimizers" if options.optimizers else "memory"
    write_json(options.out / f"{report_name}.json", report)


# -- the two reports -----------------------------------------------------------------------------------------------------


def compared(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """MiB of every side, round by round, the order turning."""
    model = options.models[0]
    file, texts = write_rows(folder / "rows.csv", ROWS, 5, LENGTH), write_rows(folder / "long.csv", 64, LONG, LONG + 1)
    common = [*settings(model, file, LENGTH, BATCH), f"training.max_steps={STEPS}"]
    long = [*settings(model, texts, LONG, 8), "training.max_steps=4"]
    jobs: dict[str, dict[str, Any]] = {
        "lorakit": {"side": "lorakit", "settings": common},
        "peft": {"side": "peft", **by_hand(common)},
        "long": {"side": "lorakit", "settings": long},
        "long recomputed": {"side": "lorakit", "settings": [*long, "training.gradient_checkpointing=true"]},
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    names = list(jobs)
    for number in range(options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(run(jobs[name], folder))
    peaks = {name: [each["peak"] for each in results] for name, results in found.items()}
    for name, values in peaks.items():
        moments = {moment: statistics.median(each[moment] for each in found[name]) for moment in found[name][0]}
        print(f"{name:18} {statistics.median(values):8.0f} MiB   {words(moments)}")
    ratios = {
        "lorakit / peft": [a / b for a, b in zip(peaks["lorakit"], peaks["peft"], strict=True)],
        "long recomputed / long": [a / b for a, b in zip(peaks["long recomputed"], peaks["long"], strict=True)],
    }
    for name, values in ratios.items():
        print(f"{name:26} {statistics.median(values):.3f}  ({min(values):.3f} to {max(values):.3f})")
    return {"settings": {name: job.get("settings") for name, job in jobs.items()}, "mib": found, "ratios": ratios}


def planned(options: argparse.Namespace, folder: Path, wanted: list[list[str]]) -> dict[str, Any]:
    """Predicted and measured MiB of every setting, and of these MiB what the optimiser keeps."""
    rows = []
    for model in options.models:
        for more in wanted:
            batch, length = number(more, "training.batch_size"), number(more, "task.max_length")
            file = write_rows(folder / f"{batch}-{length}.csv", 3 * batch, length, length + 1)
            job = {"side": "plan", "settings": [*settings(model, file, length, batch), "training.max_steps=3", *more]}
            found = [run(job, folder) for _ in range(options.rounds)]
            measured = statistics.median(each["measured"] for each in found)
            predicted = found[0]["predicted"]
            rows.append({"model": model, "settings": more, "predicted": predicted, "measured": measured, "all": found})
            print(
                f"{predicted:8.1f} {measured:8.1f} MiB {predicted / measured:6.2f}  "
                f"{found[0]['kept']:6.1f} MiB kept  {Path(model).name} {' '.join(more)}"
            )
    outside = [row for row in rows if abs(row["predicted"] / row["measured"] - 1) > 0.2]
    print(f"{len(rows) - len(outside)} of {len(rows)} within 20 %")
    return {"rows": rows}


SETTINGS = [
    [f"training.batch_size={batch}", f"task.max_length={length}", *more]
    for batch in (8, 32)
    for length in (64, 128)
    for more in (
        [],
        ["training.precision=bf16"],
        ["adapter.targets=[q,v]"],
        ["model.attention=eager"],
        ["training.gradient_checkpointing=true"],
        ["training.gradient_checkpointing=true", "training.precision=bf16"],
    )
]

OPTIMIZERS = [
    ["training.batch_size=4", "task.max_length=32", "adapter.method=full", "adapter.dropout=0", *more]
    for more in (
        ["training.optimizer=adamw"],
        ["training.optimizer=adamw_8bit"],
        *(["training.optimizer=flora", f"training.optimizer_options={{rank: {rank}}}"] for rank in (32, 128)),
    )
]
"""Few tokens, so that activations are small beside the optimiser's state."""


def settings(model: str, file: Path, length: int, batch: int) -> list[str]:
    """What is the same on all sides; evaluation has the training's batches, so that the training is the peak."""
    return [
        f"model.name={model}",
        "task.name=custom",
        f"task.train={file}",
        f"task.validation={file}",
        "task.text=text",
        "task.label=label",
        "task.max_eval_rows=32",
        f"task.max_length={length}",
        "adapter.targets=[all]",
        "adapter.shortcuts=[]",
        f"adapter.rank={RANK}",
        "search.method=none",
        f"training.batch_size={batch}",
        f"evaluation.batch_size={batch}",
        "training.epochs=1",
        f"run.seed={SEED}",
    ]


def number(settings: list[str], key: str) -> int:
    return next(int(each.partition("=")[2]) for each in settings if each.startswith(f"{key}="))


def words(moments: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in moments.items() if name != "peak")


def write_rows(path: Path, rows: int, low: int, high: int) -> Path:
    """A file of rows with ``low`` to ``high`` words, a token or more each."""
    draw = random.Random(SEED)
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label"])
        for row in range(rows):
            table.writerow([" ".join(draw.choices(WORDS, k=draw.randint(low, high))), ("dull", "warm")[row % 2]])
    return path


def by_hand(settings: list[str]) -> dict[str, Any]:
    """What PEFT's side needs to do the same: where the model lies, the modules, and the rows of every step."""
    from lorakit.backbone.model_folder import find_checkpoint
    from lorakit.recipe.load import load_recipe
    from lorakit.training.loader import TrainLoader
    from lorakit.training.seeds import derive_seed
    from lorakit.workflow.setup import assemble

    loaded = load_recipe("demo", settings)
    parts = assemble(loaded)
    loader = TrainLoader(parts.encode("train")["train"], loaded.recipe.training, derive_seed(SEED, "data"))
    return {
        "model": str(find_checkpoint(loaded.recipe.model, offline=True)),
        "file": loaded.recipe.task.train,
        "modules": [site.name for site in parts.sites],
        "head": sorted({name.split(".")[0] for name in parts.backbone.new_parts if not name.startswith("bert.")}),
        "order": loader.batches(0)[:STEPS],
    }


# -- in the fresh process ------------------------------------------------------------------------------------------------


def run(job: dict[str, Any], folder: Path) -> dict[str, float]:
    """What a side says of itself."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        command = [sys.executable, __file__, "--job", json.dumps({**job, "folder": own})]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def mib(field: str) -> float:
    """Of this process, by the kernel: VmRSS is resident now, VmHWM was at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def lorakit_side(job: dict[str, Any]) -> dict[str, float]:
    """`lorakit train`, from the library."""
    import lorakit
    from lorakit.recipe.load import load_recipe

    imported = mib("VmRSS")
    lorakit.train(load_recipe("demo", job["settings"]), run_dir=Path(job["folder"]) / "run")
    return {"peak": mib("VmHWM"), "imports": imported}


def peft_side(job: dict[str, Any]) -> dict[str, float]:
    """The same by hand with PEFT."""
    import peft
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    imported = mib("VmRSS")
    torch.manual_seed(SEED)
    with open(job["file"], newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH)["input_ids"]
    labels = [names.index(row["label"]) for row in rows]
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        job["model"], num_labels=len(names), dtype=torch.float32
    )
    config = peft.LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=job["modules"], modules_to_save=job["head"], task_type="SEQ_CLS"
    )
    model = peft.get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def batch_of(chosen: list[int]) -> dict[str, torch.Tensor]:
        batch = tokenizer.pad({"input_ids": [encoded[row] for row in chosen]}, return_tensors="pt")
        return {**batch, "labels": torch.tensor([labels[row] for row in chosen])}

    for chosen in job["order"]:
        model(**batch_of(chosen)).loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    with torch.no_grad():
        right = model(**batch_of(list(range(BATCH)))).logits.argmax(-1).tolist()
    model.save_pretrained(Path(job["folder"]) / "adapter")
    assert len(right) == BATCH
    return {"peak": mib("VmHWM"), "imports": imported}


def plan_side(job: dict[str, Any]) -> dict[str, float]:
    """What is predicted for the loop, and what it takes."""
    import lorakit
    from lorakit.artifacts.run import Run
    from lorakit.recipe.load import load_recipe
    from lorakit.training.loop import train
    from lorakit.training.optim import optimizer_bytes
    from lorakit.workflow.memory import estimate_footprint
    from lorakit.workflow.prepare import prepare
    from lorakit.workflow.setup import assemble

    folder = Path(job["folder"])
    loaded = load_recipe("demo", job["settings"])
    if loaded.recipe.training.gradient_checkpointing:  # else malloc keeps what it had, and nothing would grow
        lorakit.train(load_recipe("demo", [*job["settings"], "training.max_steps=1"]), run_dir=folder / "before")
    parts = assemble(loaded)
    run = Run(folder / "run")
    training = prepare(loaded, parts, run, [])
    run.start(loaded.to_yaml(), parts.task)
    told = estimate_footprint(parts, training.adapted)
    gc.collect()
    before = mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    train(training)
    kept = optimizer_bytes(training.adapted, loaded.recipe.training) / 2**20
    return {"predicted": (told.total - told.weights) / 2**20, "measured": mib("VmHWM") - before, "kept": kept}


if __name__ == "__main__":
    main()
