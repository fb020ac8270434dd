"""The known tasks. A file here builds ``lorakit.tasks.task.Task`` objects and registers them in ``lorakit.tasks.task.tasks``."""
