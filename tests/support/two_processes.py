"""What each of two processes does in test_processes.py: several trainings, one after the other, in one launch.

    python -m torch.distributed.run --standalone --nproc-per-node=2 in_two_processes.py JOBS

JOBS is a JSON file: a list of {"recipe", "overrides", "run", "stops"}; after each number of steps in ``stops`` the person presses
Ctrl-C, in the first process alone, and the run is resumed.
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.runs import StopAt

from lorakit.errors import Interrupted
from lorakit.recipe.load import load_recipe
from lorakit.workflow import train as running

if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        stops, again = list(job["stops"]), False
        while True:
            step = stops.pop(0) if stops else 0
            hooks = [StopAt(step)] if os.environ["RANK"] == "0" else []
            loaded = load_recipe(job["recipe"], job["overrides"])
            try:
                with mock.patch.object(running, "draw"):
                    running.train(loaded, run_dir=Path(job["run"]), resume=again, hooks=hooks)
                break
            except Interrupted:
                again = True
