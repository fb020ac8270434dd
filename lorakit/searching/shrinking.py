"""The way from everything to what is left in the end (Zhu & Gupta 2017; AdaLoRA: Zhang et al. 2023, section 3.3)."""

from __future__ import annotations


def remaining(step: int, begin: int, end: int, final: float) -> float:
    """The share left at ``step``: 1 up to ``begin``, ``final`` from ``end``, and between them final + (1 - final) (1 - t)^3."""
    if step <= begin:
        return 1.0
    if step >= end:
        return final
    return final + (1 - final) * (1 - (step - begin) / (end - begin)) ** 3
