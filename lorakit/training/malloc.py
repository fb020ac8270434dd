"""glibc's malloc, told to give arrays back as soon as they are freed.

By itself it raises, up to 32 MiB, the size from which an array gets pages of its own: whatever is smaller then lies in one heap, whose
holes between what autograd keeps stay resident. Over a step on a CPU that is a third more memory, and more than twice as much where
layers recompute. With the size fixed, a step takes what its arrays take; but fresh pages are zeroed every time, which makes it up to
1.6 times as long. So it is for trainings that have chosen memory over time.
"""

from __future__ import annotations

import ctypes
import os
import platform

OWN_PAGES = 64 * 1024
"""Bytes from which an array has pages of its own."""
M_MMAP_THRESHOLD = -3  # malloc.h
BY_PERSON = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def give_memory_back() -> bool:
    """Fix the size for this process, and say so; not without glibc, nor where a person has set malloc up by the environment."""
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in BY_PERSON):
        return False
    return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_PAGES))
