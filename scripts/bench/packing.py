"""Batches without padding beside padded ones: what share of tokens is padding, and tokens per second of both on rows of mixed length.

    OMP_NUM_THREADS=1 python scripts/bench/packing.py shared/continual --out results/bench

For the training rows of each folder of FOLDER (a train.parquet with a column of texts), by the bundled encoder's tokenizer, the share of a
batch's places that hold no text: for rows as they are drawn, and sorted by length within mega-batches as trainings do it. That share is
all that there is to gain. Then forward and backward passes through the encoder, gradients of all weights, on the same batches in turn:
`padded`, and `packed`: all rows in one line, positions that start anew with each, and a mask by which a row sees itself alone. Both
sides' outputs and gradients are the same to rounding, which is checked.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from measuring import ratio, timed, turned
from transformers import AutoModel, AutoTokenizer

from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import environment
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.schema import ModelSection
from lorakit.tasks.batching import epoch_batches
from lorakit.tasks.token_ids import token_ids

TEXTS = ("text", "content", "sentence")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--batches", type=int, default=5, help="how many of them are timed; 0 for shares of padding alone"
    )
    options = parser.parse_args()
    checkpoint = find_checkpoint(ModelSection(name="bundled:minilm"), offline=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint).eval()
    found = []
    for file in sorted(options.folder.glob("*/train.parquet")):
        for length in options.length:
            ids, _ = token_ids(tokenizer, [texts_of(file)[: options.rows]], length)
            rows = ids["input_ids"]
            here = {"data": file.parent.name, "length": length} | shares(rows, options.batch_size)
            if options.batches:
                here |= race(model, rows, options.batch_size, options.batches)
            found.append(here)
            print(told(here), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(
        options.out / "packing.json", {"batch": options.batch_size, "measured": found, "environment": environment()}
    )


def texts_of(file: Path) -> list[str]:
    """The column of texts."""
    table = parquet.read_table(file)
    return [str(text) for text in table[next(name for name in TEXTS if name in table.column_names)].to_pylist()]


def shares(rows: list[list[int]], size: int) -> dict[str, Any]:
    """Shares of padding."""
    lengths = [len(row) for row in rows]
    grouped, drawn = (epoch_batches(lengths, size, seed=0, epoch=0, group=group) for group in (True, False))
    return {
        "mean length": float(np.mean(lengths)),
        "padding": padding(lengths, grouped),
        "padding, unsorted": padding(lengths, drawn),
    }


def race(model: Any, rows: list[list[int]], size: int, number: int) -> dict[str, Any]:
    """Tokens per second of both sides on the first batches of an epoch."""
    batches = epoch_batches([len(row) for row in rows], size, seed=0, epoch=0, group=True)[:number]
    check(model, [rows[row] for row in batches[0]])
    speed: dict[str, list[float]] = {"padded": [], "packed": []}
    for place, batch in enumerate(batches):
        texts = [rows[row] for row in batch]
        sides = {"padded": partial(step, model, padded(texts)), "packed": partial(step, model, packed(texts))}
        for side in turned(list(sides), place):
            speed[side].append(sum(map(len, texts)) / timed(sides[side]))
    return {"tokens per second": speed, "packed beside padded": ratio(speed["packed"], speed["padded"])}


def padding(lengths: list[int], batches: list[list[int]]) -> float:
    """The share of all batches' places that hold no text."""
    places = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    return 1 - sum(lengths) / places


def padded(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    """A line for each text."""
    longest = max(map(len, texts))
    ids, mask = (torch.zeros(len(texts), longest, dtype=torch.long) for _ in range(2))
    for line, text in enumerate(texts):
        ids[line, : len(text)], mask[line, : len(text)] = torch.tensor(text), 1
    first = torch.arange(len(texts)) * longest
    return {"input_ids": ids, "attention_mask": mask, "first": first}


def packed(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    """One line of all texts; each sees itself alone."""
    sizes = torch.tensor([len(text) for text in texts])
    row = torch.repeat_interleave(torch.arange(len(texts)), sizes)
    seen = row[:, None] == row[None, :]
    return {
        "input_ids": torch.tensor([[token for text in texts for token in text]]),
        "attention_mask": torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None],
        "position_ids": torch.cat([torch.arange(int(size)) for size in sizes])[None],
        "first": sizes.cumsum(0) - sizes,
    }


def step(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """A loss of the first tokens' states, and its gradients; those states (texts, width)."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "first"}
    states: torch.Tensor = model(**inputs).last_hidden_state.flatten(0, 1)[batch["first"]]
    model.zero_grad()
    states.square().sum().backward()
    return states.detach()


def check(model: Any, texts: list[list[int]]) -> None:
    """Both sides say the same, and their gradients are the same."""
    found = []
    for batch in (padded(texts), packed(texts)):
        states = step(model, batch)
        found.append([states, *(each.grad.clone() for each in model.parameters() if each.grad is not None)])
    largest = max(float(each.abs().max()) for each in found[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * largest)


def told(found: dict[str, Any]) -> str:
    """A line of the table."""
    line = f"{found['data']:10}up to {found['length']} tokens, {found['mean length']:.0f} on the mean: "
    line += f"padding {found['padding']:.1%} ({found['padding, unsorted']:.1%} unsorted)"
    if "tokens per second" in found:
        padded, packed = (float(np.median(each)) for each in found["tokens per second"].values())
        line += f"; tokens/s padded {padded:,.0f}, packed {packed:,.0f}, {found['packed beside padded']['median']:.2f}"
    return line


if __name__ == "__main__":
    main()
