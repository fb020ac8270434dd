"""Two processes with a model in DistributedDataParallel: the same choices, and the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from support.models import ENCODER
from support.processes import LAUNCHER, TWO, on_cpu
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertForSequenceClassification

import lorakit

STEPS, BATCH = 8, 8


def work(folder: Path) -> None:
    """One process: its half of each batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForSequenceClassification(BertConfig(**ENCODER | calm, num_labels=2))
    ids = torch.randint(4, 40, (4 * BATCH, 8), generator=torch.Generator().manual_seed(1))
    rows: list[Any] = [{"input_ids": row, "labels": torch.tensor(n % 2)} for n, row in enumerate(ids)]
    adapted = lorakit.adapt(model, rank=4, targets=["q", "v", "up"], shortcuts=["res1"])
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    search = lorakit.Search("heterolora", adapted, budget=0.3, every=0.25, batches=1, rows=rows, batch_size=BATCH)
    optimizer = torch.optim.AdamW(adapted.groups(lr=3e-2))
    search.begin(optimizer, steps=STEPS, steps_per_epoch=STEPS // 2)
    for step in range(STEPS):
        part = rows[step % 4 * BATCH :][:BATCH][rank::2]
        search.before_step()
        wrapped(**{name: torch.stack([row[name] for row in part]) for name in part[0]}).loss.backward()
        search.after_backward()
        optimizer.step()
        search.after_step()
        optimizer.zero_grad()
    search.end()
    sums = {tensor.name: tensor.parameter.double().sum().item() for tensor in adapted.trained()}
    (folder / f"{rank}.json").write_text(json.dumps([[tick["on"] for tick in search.timeline], sums]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow  # two processes that import torch
def test_two_processes_choose_and_learn_the_same(tmp_path: Path):
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    command = [*LAUNCHER, *TWO, __file__, str(tmp_path)]
    subprocess.run(command, check=True, env=on_cpu() | {"PYTHONPATH": path}, timeout=200, capture_output=True)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(first[0]) == STEPS


if __name__ == "__main__":
    work(Path(sys.argv[1]))
