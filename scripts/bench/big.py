"""Models of up to 1.5 billion random weights on one small machine: what is planned, and what is taken.

    python scripts/bench/big.py --out results/big              # planned beside measured, model by model
    python scripts/bench/big.py --out results/big --whole      # 1.5 billion weights: planned, trained, saved, merged and loaded
    python scripts/bench/big.py --out results/big --starts     # seconds of PiSSA's start, by an exact and by a randomised SVD

Each line is measured in a process of its own and written to OUT/NAME.jsonl as soon as it is there; what is there is not measured again.
Models are made once, in OUT/models, a few tensors at a time.

Memory is the kernel's high-water mark of resident memory (VmHWM), less the resident memory of the same process when it was idle: with its
libraries loaded, and a tiny model trained for a step, so that they have what they load late. Weights that are mapped from a file are
resident once they are read, and counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory import WORDS, mib, settings, write_rows

SEED, BATCH, LENGTH = 0, 4, 64
SHORTLY = ["training.max_steps=3", "run.offline=true"]
SHARD = 2**29
"""Bytes of a file of weights."""


def sizes(hidden: int, layers: int, heads: int, inner: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


DECODER: dict[str, Any] = {"vocab_size": 32000, "tie_word_embeddings": True, "pad_token_id": 0}
QWEN2 = DECODER | {"vocab_size": 151936, "num_key_value_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-0.02b": ("llama", DECODER | sizes(384, 6, 6, 1024)),
    "bert-0.1b": ("bert", {"vocab_size": 30522} | sizes(768, 12, 12, 3072)),
    "bert-0.3b": ("bert", {"vocab_size": 30522} | sizes(1024, 24, 16, 4096)),
    "qwen2-0.5b": ("qwen2", QWEN2 | sizes(896, 24, 14, 4864)),
    "qwen2-1.5b": ("qwen2", QWEN2 | sizes(1536, 28, 12, 8960)),
}
CHECKPOINTING = "training.gradient_checkpointing=true"
NF4 = "model.quantization=nf4"
BF16 = "model.dtype=bfloat16"
SHORT = ["training.batch_size=1", "evaluation.batch_size=1", "task.max_length=16", "task.max_eval_rows=2"]
"""So that half-precision products of a slow CPU end in minutes: what memory is taken by is the weights."""
SETTINGS = [[], [CHECKPOINTING], [NF4, CHECKPOINTING], [BF16, CHECKPOINTING]]


def random_model(name: str, folder: Path, dtype: str = "float32") -> Path:
    """A checkpoint of random weights in files of ``SHARD`` bytes, with a tokenizer, made once in ``folder``."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel, AutoTokenizer, Qwen2Tokenizer

    from lorakit.backbone.model_folder import find_checkpoint
    from lorakit.recipe.schema import ModelSection

    path = folder / f"{name}-{dtype}"
    if (path / "config.json").is_file():
        return path
    path.mkdir(parents=True, exist_ok=True)
    family, arguments = MODELS[name]
    config = AutoConfig.for_model(family, **arguments, dtype=dtype)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    torch.manual_seed(SEED)
    held: dict[str, torch.Tensor] = {}
    shards: list[list[str]] = []

    def write() -> None:
        shards.append([*held])
        save_file(held, path / f"{len(shards)}.safetensors", {"format": "pt"})
        held.clear()

    for key, tensor in model.state_dict().items():
        made = torch.ones(tensor.shape) if "norm" in key.lower() else 0.02 * torch.randn(tensor.shape)
        held[key] = made.to(getattr(torch, dtype))
        if sum(each.nbytes for each in held.values()) > SHARD:
            write()
    if held:
        write()
    files = {}
    for number, keys in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (path / f"{number}.safetensors").rename(path / file)
        files |= dict.fromkeys(keys, file)
    if len(shards) > 1:
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    if family == "qwen2":
        letters = sorted({letter for word in WORDS for letter in word} | {"Ġ"})
        places = {piece: number for number, piece in enumerate(["<|endoftext|>", *letters])}
        Qwen2Tokenizer(places, [], model_max_length=512).save_pretrained(path)
    else:
        source = find_checkpoint(ModelSection(name="bundled:minilm"), offline=True)
        AutoTokenizer.from_pretrained(source).save_pretrained(path)
    config.save_pretrained(path)
    return path


# -- the reports ---------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--starts", action="store_true")
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=MODELS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        print(json.dumps(SIDES[job["side"]](job)))
        return
    if options.out is None:
        parser.error("--out is missing")
    options.out.mkdir(parents=True, exist_ok=True)
    report = whole if options.whole else starts if options.starts else planned
    report(options)


def planned(options: argparse.Namespace) -> None:
    """Each model as it is, with recomputed layers, in half precision, and in 4 bits."""
    for name in options.models:
        for more in SETTINGS:
            found = once(options.out / "planned.jsonl", {"side": "training", "model": name, "settings": more})
            told, took = found["planned"], found["measured"]
            print(f"{told:8.0f} {took:8.0f} MiB {told / took:6.2f}  {name} {' '.join(more)}", flush=True)


def whole(options: argparse.Namespace) -> None:
    """The largest in 4 bits, from the plan to the merged model: the peak of every command."""
    for command in ("plan", "train", "merge", "load"):
        job = {
            "side": command,
            "model": [*MODELS][-1],
            "settings": [NF4, BF16, CHECKPOINTING, *SHORT],
            "dtype": "bfloat16",
        }
        found = once(options.out / "whole.jsonl", job)
        print(f"{command:6} {found['peak']:8.0f} MiB {found['seconds']:7.0f} s  {found['told']}", flush=True)


def starts(options: argparse.Namespace) -> None:
    """Seconds of one site's start, square matrices whose singular values fall as 1 / number."""
    for size in (1024, 4096):
        found = once(options.out / "starts.jsonl", {"side": "start", "size": size})
        print(
            f"{size:5} exact {found['exact']:7.2f} s, randomised {found['randomised']:5.2f} s, {found['difference']:.1g} apart",
            flush=True,
        )


def once(lines: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What the line of ``job`` says; it is written first where it is not there."""
    for line in lines.read_text().splitlines() if lines.exists() else ():
        found: dict[str, Any] = json.loads(line)
        if found["job"] == job:
            return found
    command = [sys.executable, __file__, "--job", json.dumps(job | {"out": str(lines.parent)})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = {"job": job, **json.loads(done.stdout.strip().splitlines()[-1])}
    with lines.open("a") as stream:
        stream.write(json.dumps(found) + "\n")
    return found


# -- in the fresh process ------------------------------------------------------------------------------------------------


def idle(job: dict[str, Any]) -> tuple[Any, float]:
    """The recipe of ``job``, and the MiB of this process before anything is done with it."""
    import lorakit
    from lorakit.backbone.heap import trim
    from lorakit.recipe.load import load_recipe

    out = Path(job["out"])
    file = write_rows(out / "rows.csv", 3 * BATCH, LENGTH, LENGTH + 1)
    model = random_model(job["model"], out / "models", job.get("dtype", "float32"))
    with tempfile.TemporaryDirectory(dir=out) as folder:
        tiny = [*settings("bundled:minilm", file, LENGTH, BATCH), *SHORTLY, "training.max_steps=1", *job["settings"]]
        lorakit.train(load_recipe("demo", tiny), run_dir=Path(folder) / "tiny")
    gc.collect()
    trim()
    before = mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return load_recipe("demo", [*settings(str(model), file, LENGTH, BATCH), *SHORTLY, *job["settings"]]), before


def command_side(job: dict[str, Any]) -> dict[str, Any]:
    """One command, and what it says."""
    import lorakit

    recipe, before = idle(job)
    started, out = time.perf_counter(), Path(job["out"])
    if job["side"] == "plan":
        told = f"{lorakit.plan(recipe).memory_bytes / 2**20:.0f} MiB planned for the training"
    elif job["side"] == "train":
        told = f"{lorakit.train(recipe, run_dir=out / 'run').steps} steps"
    elif job["side"] == "merge":
        merged = lorakit.merge(out / "run", out=out / "merged", force=True)
        told = f"logits differ by {merged.largest_difference:.2g} of {merged.largest_logit:.2g}"
    else:
        told = lorakit.load(out / "merged").predict("a film of quiet wonders")[0].label
    return {"peak": mib("VmHWM") - before, "seconds": time.perf_counter() - started, "told": told}


def training_side(job: dict[str, Any]) -> dict[str, Any]:
    """What is planned for a training, and its peak from the load to the last step, with every weight read at least once."""
    from lorakit.artifacts.run import Run
    from lorakit.training.loop import train
    from lorakit.workflow.memory import estimate_footprint
    from lorakit.workflow.prepare import prepare
    from lorakit.workflow.setup import assemble

    recipe, before = idle(job)
    with tempfile.TemporaryDirectory(dir=job["out"]) as folder:
        parts, run = assemble(recipe), Run(Path(folder) / "run")
        for parameter in parts.backbone.model.parameters():
            parameter.sum()
        training = prepare(recipe, parts, run)
        run.start(recipe.to_yaml(), parts.task)
        train(training)
        peak = mib("VmHWM") - before
        told = estimate_footprint(parts, training.adapted)
    return {"planned": told.total / 2**20, "measured": peak, "parts": {k: v / 2**20 for k, v in vars(told).items()}}


def start_side(job: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of one thread for the first 16 singular triplets, exact and randomised, and how far these are apart."""
    import torch

    from lorakit.adapters import spectrum

    torch.set_num_threads(1)
    size, draw = job["size"], torch.Generator().manual_seed(SEED)
    matrix = torch.diag(1 / torch.arange(1, size + 1))
    for _ in range(2):  # a reflection on either side: singular vectors that are no unit vectors
        axis = torch.nn.functional.normalize(torch.randn(size, generator=draw), dim=0)
        matrix = (matrix - 2 * torch.outer(axis, axis @ matrix)).T
    spectrum.SMALL = 0
    found, best = [], {}
    for name, exact in (("randomised", False), ("exact", True)):
        started = time.process_time()
        u, s, v = spectrum.leading(matrix, 16, draw, exact=exact)
        best[name] = time.process_time() - started
        found.append(u * s @ v)
    return best | {"difference": float((found[0] - found[1]).norm() / found[1].norm())}


SIDES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    **dict.fromkeys(("plan", "train", "merge", "load"), command_side),
    "training": training_side,
    "start": start_side,
}


if __name__ == "__main__":
    main()
