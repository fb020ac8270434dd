"""IMDb reviews (Maas et al. 2011), whole ones: the 25,000 for training, inside an installable package."""

from __future__ import annotations

from lorakit.tasks.task import Task, tasks

tasks.register(
    Task(
        "imdb",
        "is the film review kind, of several sentences (bundled)",
        ("text",),
        "label",
        ("negative", "positive"),
        ("accuracy",),
        bundled=True,
    ),
)
