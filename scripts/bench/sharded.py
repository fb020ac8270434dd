"""Memory of each of two processes, with the model whole on both (data parallel) and shared out (FSDP version 2).

    python scripts/bench/sharded.py --out results/sharded                                # minutes, and 4 GiB
    python scripts/bench/sharded.py --out results/sharded --layers 2 --width 256         # a moment

A Llama of random float32 weights, LoRA of rank 8 on q and v, two steps of 8 rows of 32 tokens, on the CPU. Memory is resident memory by
the kernel, everything in it: Python, libraries, data. Of each side, the larger of the two processes: `load`, the most up to the first step,
when the model has been read and shared out; `before`, what is there then; `training`, the most from there to the end. Writes
OUT/sharded.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from memory import mib, write_rows

SIDES = {"whole": {}, "sharded": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}}
MOMENTS = ("load", "before", "training")
ROWS, BATCH, LENGTH = 16, 8, 32
SETTINGS = [
    "adapter.method=lora",
    "adapter.rank=8",
    "adapter.targets=[q,v]",
    "adapter.shortcuts=[]",
    "search.method=none",
    "training.epochs=1",
    "training.lr=1e-3",
    "evaluation.baselines=[]",
    "run.offline=true",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        train(options.job)
        return
    if options.out is None:
        parser.error("--out is missing")
    from lorakit.artifacts.files import write_json
    from lorakit.artifacts.run import environment

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", MAKE, str(folder), str(options.layers), str(options.width)], check=True)
        write_rows(folder / "rows.csv", ROWS, LENGTH, LENGTH)
        weights = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors")) / 2**20
        report: dict[str, Any] = {"weights": weights}
        print(f"weights {weights:,.0f} MiB; of a process, MiB:")
        for side, launched in SIDES.items():
            job = folder / side
            job.mkdir()
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
            environ = {**os.environ, "ACCELERATE_USE_CPU": "true", **launched}
            subprocess.run([*launcher, __file__, "--job", str(job)], check=True, env=environ)
            told = [json.loads(path.read_text()) for path in job.glob("*.json")]
            report[side] = {moment: max(each[moment] for each in told) for moment in MOMENTS}
            print(f"{side:8}", "  ".join(f"{moment} {report[side][moment]:,.0f}" for moment in MOMENTS), flush=True)
    report["environment"] = environment()
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "sharded.json", report)


MAKE = """
import sys, torch
from pathlib import Path
from transformers import AutoConfig, AutoModel, AutoTokenizer
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.schema import ModelSection
folder, layers, width = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": 16}
torch.manual_seed(0)
config = AutoConfig.for_model("llama", vocab_size=30522, pad_token_id=0, **sizes)
AutoModel.from_config(config).save_pretrained(folder / "model")
source = find_checkpoint(ModelSection(name="bundled:minilm"), offline=True)
AutoTokenizer.from_pretrained(source).save_pretrained(folder / "model")
"""


def train(job: Path) -> None:
    """This process's part of a training; what memory it had, into ``job``."""
    import lorakit
    from lorakit.training.hooks import Hook, TrainState

    found: dict[str, float] = {}

    class Reader(Hook):
        def on_train_begin(self, state: TrainState) -> None:
            found["load"], found["before"] = mib("VmHWM"), mib("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")

        def on_train_end(self, state: TrainState) -> None:
            found["training"] = mib("VmHWM")

    rows = job.parent / "rows.csv"
    task = [f"model.name={job.parent / 'model'}", f"task.max_length={LENGTH}", f"training.batch_size={BATCH}"]
    lorakit.train(rows, [*SETTINGS, *task], run_dir=job / "run", hooks=[Reader()])
    (job / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
