"""What is freed between arrays that stay is no longer resident."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from lorakit.training.malloc import BY_PERSON, give_memory_back

HOLES = """
import sys
import numpy as np
from lorakit.training.malloc import give_memory_back

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

if sys.argv[1] == "on":
    assert give_memory_back()
np.ones(2**21)  # 16 MiB, freed: from here on glibc puts what is smaller into its heap
before = resident()
arrays = [np.ones(2**15) for _ in range(400)]  # 100 MiB in all
arrays = arrays[1::2]
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_holes_are_given_back(monkeypatch: pytest.MonkeyPatch):
    for name in BY_PERSON:
        monkeypatch.delenv(name, raising=False)
    left = {}
    for way in ("on", "off"):
        done = subprocess.run([sys.executable, "-c", HOLES, way], capture_output=True, text=True, check=True)
        left[way] = float(done.stdout)
    assert left["on"] == pytest.approx(50, abs=5)
    assert left["off"] > 90


@pytest.mark.parametrize("name", BY_PERSON)
def test_what_a_person_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "1")
    assert not give_memory_back()
