"""lorakit on several processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys

LAUNCHER = (sys.executable, "-m", "torch.distributed.run")
TWO = ("--standalone", "--nproc-per-node=2")


def on_cpu() -> dict[str, str]:
    """This environment, in which accelerate leaves GPUs alone."""
    return {**os.environ, "ACCELERATE_USE_CPU": "true"}


def lorakit_on_two(*arguments: str) -> None:
    """``lorakit`` with these arguments on two processes."""
    command = [*LAUNCHER, *TWO, "-m", "lorakit", *arguments]
    subprocess.run(command, check=True, env=on_cpu(), timeout=200, capture_output=True)
