"""Workers that Ray starts: their parts of its machines, and that they share the runs and lose nothing when one is killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

import pytest

from lorakit.artifacts.files import read_json
from lorakit.artifacts.lock import holder_in
from lorakit.artifacts.run import Run
from lorakit.artifacts.standing import all_checkpoints
from lorakit.errors import RunError, UsageError
from lorakit.workflow.experiments import workers
from lorakit.workflow.experiments.on_ray import check_address, how_many, share
from lorakit.workflow.experiments.sweep import sweep

LONG = 300.0


@pytest.mark.parametrize(
    ("nodes", "number", "expected"),
    [
        ([{"CPU": 8}], 2, (0, 4)),
        ([{"CPU": 8}], 3, (0, 2)),
        ([{"CPU": 4}, {"CPU": 2}], 3, (0, 2)),
        ([{"CPU": 4}, {"CPU": 2}], 2, (0, 2)),  # with 3 there would be room for one
        ([{"CPU": 2}], 5, (0, 1)),  # three wait
        ([{"CPU": 16, "GPU": 2}, {"CPU": 64}], 2, (1, 8)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 4, "GPU": 1}], 5, (1, 4)),
        ([{"CPU": 16, "GPU": 1}], 2, (1, 1)),  # one waits for the GPU
        ([], 1, (0, 1)),
    ],
)
def test_every_worker_has_a_gpu_and_the_most_cpus_with_which_all_have_room(nodes, number, expected):
    assert share(nodes, number) == expected


def test_a_worker_for_each_gpu_unless_it_is_said():
    assert how_many(None, [{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 2}]) == 6
    assert how_many(3, [{"CPU": 8, "GPU": 4}]) == 3
    with pytest.raises(UsageError, match=r"--workers: this Ray has no GPU, .* how many workers share its 12 CPUs"):
        how_many(None, [{"CPU": 8}, {"CPU": 4}])


def test_without_ray_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        UsageError, match=r"--on ray: needs Ray, which is not installed\n *try: pip install 'lorakit\[ray\]'"
    ):
        sweep("demo", ["adapter.rank=2,4"], on="ray", workers=2)


def test_an_address_where_nobody_listens_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
    with pytest.raises(RunError, match=rf"RAY_ADDRESS=127\.0\.0\.1:{port}: there is no Ray"):
        check_address(f"127.0.0.1:{port}")
    for another in ("", "auto", "local", f"ray://127.0.0.1:{port}"):
        check_address(another)


@pytest.mark.slow
def test_two_workers_share_the_runs_and_lose_nothing_when_one_is_killed(bench, tmp_path, monkeypatch):
    """On a Ray that is started here. The killed one is in the middle of a training, which another goes on with."""
    ray = pytest.importorskip("ray", reason="pip install 'lorakit[ray]'")
    monkeypatch.setattr(workers, "POLL", 0.2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    path = str(bench.load(name="many").path)
    varying = ["adapter.rank=1,2", "training.epochs=30", "run.checkpoint_every=0.5"]
    folder, killed = tmp_path / "s", []

    def kill() -> None:
        end = time.monotonic() + LONG
        while time.monotonic() < end and not killed:
            for run in (Run(found) for found in folder.glob("many-rank*-*") if found.is_dir()):
                worker = holder_in(run.path.with_name(f"{run.path.name}.lock"))
                if worker is not None and worker.pid and all_checkpoints(run.checkpoints) and not run.finished:
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.append((worker.pid, run.path.name))
                    break
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = sweep(path, varying, seeds=[0, 1], folder=folder, on="ray", workers=2)
        assert ray.is_initialized()  # it is the caller's
    finally:
        ray.shutdown()
        killer.join()
    ((number, name),) = killed
    assert number != os.getpid()
    assert (result.failed, result.missing) == ([], [])
    assert [len(point.came_to.runs) for point in result.points] == [2, 2]
    said = [text for log in folder.glob("jobs/*/worker-*.log") for text in log.read_text().splitlines()]
    begun = [text.split(": ", 1)[1] for text in said if text.startswith("run ")]
    fresh = [text for text in begun if "checkpoint" not in text]
    assert sorted(fresh) == [f"many-rank{rank}, seed {seed}" for rank in (1, 2) for seed in (0, 1)]  # each once
    rank, seed = name.removeprefix("many-").rsplit("-", 1)
    assert [text for text in begun if "checkpoint" in text] == [f"many-{rank}, seed {seed}, from its newest checkpoint"]
    assert sum(f"taken over from process {number}" in text for text in said) == 1
    assert list(folder.glob("*.lock")) == []
    assert read_json(folder / "sweep.json")["missing"] == []
