"""Rotten Tomatoes sentences (Pang and Lee, 2005), the parent of SST-2: small, real, and inside an installable package."""

from __future__ import annotations

from lorakit.tasks.task import Task, tasks

tasks.register(
    Task(
        "rotten_tomatoes",
        "is the film review kind (bundled)",
        ("text",),
        "label",
        ("negative", "positive"),
        ("accuracy",),
        hub=("cornell-movie-review-data/rotten_tomatoes",),
        bundled=True,
    ),
)
