"""lorakit on several processes of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support import two_processes
from torch.testing import assert_close

from lorakit.artifacts.files import read_jsonl

LAUNCHER = (sys.executable, "-m", "torch.distributed.run")
TWO = ("--standalone", "--nproc-per-node=2")
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What `accelerate launch --use_fsdp --fsdp_version 2` puts into the environment."""


def on_cpu() -> dict[str, str]:
    """This environment, in which accelerate leaves GPUs alone."""
    return {**os.environ, "ACCELERATE_USE_CPU": "true"}


def lorakit_on_two(*arguments: str) -> None:
    """``lorakit`` with these arguments on two processes."""
    command = [*LAUNCHER, *TWO, "-m", "lorakit", *arguments]
    subprocess.run(command, check=True, env=on_cpu(), timeout=200, capture_output=True)


def launch(folder: Path, jobs: list[dict[str, Any]], *, machines: int = 1, sharded: bool = False) -> str:
    """Run the jobs (``two_processes``) on two processes, of one machine or of two (which are this one); what was said where it fails."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = [two_processes.__file__, str(folder / "jobs.json")]
    places: list[Sequence[str]] = [TWO]
    if machines == 2:
        common = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
        places = [[*common, f"--node-rank={rank}"] for rank in range(2)]
    env = on_cpu() | (FSDP if sharded else {})
    started = [
        subprocess.Popen([*LAUNCHER, *place, *script], env=env, stderr=subprocess.PIPE, text=True) for place in places
    ]
    said = [process.communicate(timeout=600)[1] for process in started]
    return "".join(said) if any(process.returncode for process in started) else ""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def assert_same_run(alone: Path, two: Path) -> list[Any]:
    """The run of two processes made the choices of that of one, and came to its scores, and to its losses and weights to rounding.

    What was on after each tick.
    """
    ticks = [[(t["on"], t["ranks"]) for t in read_jsonl(run / "timeline.jsonl")] for run in (alone, two)]
    assert ticks[0] == ticks[1]
    lines = [read_jsonl(run / "metrics.jsonl") for run in (alone, two)]
    assert [line.get("scores") for line in lines[0]] == [line.get("scores") for line in lines[1]]
    assert [line.get("loss", 0) for line in lines[1]] == pytest.approx(
        [line.get("loss", 0) for line in lines[0]], rel=1e-4
    )
    files = [sorted(path.name for path in (run / "adapter").glob("*.safetensors")) for run in (alone, two)]
    assert files[0] == files[1] != []
    for file in files[0]:
        ours, theirs = (load_file(run / "adapter" / file) for run in (alone, two))
        assert set(ours) == set(theirs)
        for name, tensor in ours.items():
            assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5)
    return ticks[0]
