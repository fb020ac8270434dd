"""Jobs that submitit submits: what Slurm is asked for, with a Slurm that only writes down; and real ones, which are processes here."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lorakit.artifacts.files import read_json
from lorakit.artifacts.run import Run
from lorakit.artifacts.standing import all_checkpoints
from lorakit.errors import RunError, UsageError
from lorakit.workflow.experiments import workers
from lorakit.workflow.experiments.compare import compare, submit_compare
from lorakit.workflow.experiments.sweep import sweep

LONG = 300.0
HERE = ["cluster=local"]
SBATCH = 'cp "$1" "$WRITTEN/job.sh"; echo "Submitted batch job 17"'
SACCT = 'printf "JobID|State|NodeList\\n17_0|RUNNING|n1\\n17_1|PENDING|\\n"'


def test_without_submitit_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"--on slurm: needs submitit, .*\n *try: pip install 'lorakit\[slurm\]'"):
        sweep("demo", ["adapter.rank=2,4"], on="slurm", workers=2)


submitit = pytest.importorskip("submitit", reason="pip install 'lorakit[slurm]'")

from lorakit.workflow.experiments.on_slurm import DAY, read_options, unfinished  # noqa: E402 - after the skip


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A Slurm whose commands write down what they are asked; where."""
    written = tmp_path / "slurm"
    written.mkdir()
    for name, does in {
        "sbatch": SBATCH,
        "srun": "",
        "sacct": SACCT,
        "scancel": 'echo "$@" >> "$WRITTEN/cancelled"',
    }.items():
        (written / name).write_text(f"#!/bin/sh\n{does}\n")
        (written / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{written}:{os.environ['PATH']}")
    monkeypatch.setenv("WRITTEN", str(written))
    return written


def test_an_array_of_jobs_is_submitted_once(small, slurm, tmp_path, monkeypatch):
    asked = {
        "seeds": range(3),
        "folder": tmp_path / "c",
        "on": "slurm",
        "workers": 2,
        "slurm": ["partition=gpu", "gpus_per_node=1", "mem_gb=24", "timeout_min=90", "setup=module load cuda"],
    }
    submitted = submit_compare([small], **asked)
    script = (slurm / "job.sh").read_text()
    for line in ("array=0-1%2", "partition=gpu", "gpus-per-node=1", "mem=24GB", "time=90", "job-name=lorakit"):
        assert f"#SBATCH --{line}\n" in script
    assert "\nmodule load cuda\n" in script
    assert (submitted.jobs, submitted.earlier) == (["job 17_0", "job 17_1"], False)
    assert submitted.again.endswith(
        "--slurm-option partition=gpu --slurm-option gpus_per_node=1 --slurm-option mem_gb=24 --slurm-option timeout_min=90 "
        f"--slurm-option 'setup=module load cuda' --seeds 0,1,2 --folder {tmp_path / 'c'} --workers 2 --on slurm"
    )
    assert read_json(submitted.logs / "call.json")["given"]["slurm"] == []
    (slurm / "job.sh").unlink()
    again = submit_compare([small], **asked)
    assert (again.jobs, again.earlier, again.logs) == (submitted.jobs, True, submitted.logs)
    assert not (slurm / "job.sh").exists()
    assert [path.name for path in (tmp_path / "c" / "jobs").iterdir()] == [submitted.logs.name]
    for job in unfinished(submitted.logs / "call.json"):
        job.cancel()
    assert not (slurm / "cancelled").exists()  # an earlier call's
    other = submit_compare([small], ["adapter.rank=2"], **(asked | {"folder": tmp_path / "c"}))
    assert (other.earlier, (slurm / "job.sh").exists()) == (False, True)  # another comparison in the same folder


def test_ctrl_c_cancels_the_jobs_of_the_call(small, slurm, tmp_path, monkeypatch):
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workers.time, "sleep", lambda seconds: stop(seconds) if seconds == workers.POLL else None)
    with pytest.raises(workers.Interrupted):
        compare([small], seeds=[0, 1], folder=tmp_path / "c", on="slurm", workers=2)
    assert (slurm / "cancelled").read_text().split() == ["17_0", "17_1"]


def test_jobs_that_are_not_taken_are_one_message(small, slurm, tmp_path):
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'Invalid partition name specified' >&2; exit 1\n")
    with pytest.raises(RunError, match=r"--on slurm: the jobs were not taken: (.|\n)*Invalid partition"):
        submit_compare([small], seeds=[0, 1], folder=tmp_path / "c", on="slurm", workers=2)


def test_options_are_submitits_own():
    assert read_options([]) == {"cluster": "slurm", "name": "lorakit", "timeout_min": DAY}
    assert read_options(["qos=1", "exclusive=true", "name=7", "setup=a b", "setup=c"]) == {
        "cluster": "slurm",
        "name": "7",
        "timeout_min": DAY,
        "slurm_qos": 1,
        "slurm_exclusive": True,
        "slurm_setup": ["a b", "c"],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slurm": ["partitoin=x"]}, "'partitoin' is no option of a job\n(.|\n)*did you mean 'partition'"),
        ({"slurm": ["x"]}, "'x' is not KEY=VALUE"),
        ({"slurm": ["nodes=2"]}, "'nodes' is no option(.|\n)*--workers gives the number of jobs"),
        ({"slurm": ["time=1:00"]}, "'time' is no option(.|\n)*timeout_min=MINUTES"),
        ({"slurm": ["timeout_min=1h"]}, "--slurm-option timeout_min: '1h' is not a number\n *valid: a whole number"),
        ({"slurm": ["mem_gb=-1"]}, "--slurm-option mem_gb: -1 is below 0"),
        ({"slurm": ["cluster=mine"]}, "'mine' is no cluster\n *valid: slurm or local"),
        ({"slurm": HERE, "workers": None}, "--workers: --on slurm needs the number of jobs"),
        ({}, "there is no sbatch on this machine\n(.|\n)*cluster=local"),
    ],
)
def test_what_slurm_cannot_be_asked_for_is_refused(small, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=message):
        sweep(small, ["adapter.rank=2,4"], folder=tmp_path / "s", on="slurm", **({"workers": 2} | options))
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_jobs_share_the_runs_and_a_later_call_tells(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "POLL", 0.2)
    path = str(bench.load(name="many").path)
    asked = {"seeds": [0, 1], "folder": tmp_path / "c", "on": "slurm", "slurm": HERE, "workers": 2}
    submitted = submit_compare([path], ["training.max_steps=1"], **asked)
    assert len(submitted.jobs) == 2
    assert submit_compare([path], ["training.max_steps=1"], **asked).jobs == submitted.jobs
    result = compare([path], ["training.max_steps=1"], **asked)
    assert (result.failed, result.missing) == ([], [])
    assert [run.seed for run in result.sides[0].runs] == [0, 1]
    said = "".join(log.read_text() for log in submitted.logs.glob("*.err"))
    assert sorted(line.partition(": ")[2] for line in said.splitlines() if line.startswith("run ")) == [
        "many, seed 0",
        "many, seed 1",
    ]
    assert compare([path], ["training.max_steps=1"], **asked).to_dict() == result.to_dict()
    assert len(list((tmp_path / "c" / "jobs").iterdir())) == 1


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_where_it_is(bench, tmp_path):
    path = str(bench.load(name="long").path)
    asked = {"seeds": [0], "folder": tmp_path / "c", "on": "slurm", "slurm": HERE, "workers": 1}
    submitted = submit_compare([path], ["training.epochs=10000", "run.checkpoint_every=5000"], **asked)
    (job,) = unfinished(submitted.logs / "call.json")
    run, end = Run(tmp_path / "c" / "long-0"), time.monotonic() + LONG
    while not (run.path / "metrics.jsonl").exists():
        assert time.monotonic() < end, "it never began"
        time.sleep(0.05)
    assert all_checkpoints(run.checkpoints) == []
    replace(job, mine=True).cancel()
    while not job.done():
        assert time.monotonic() < end, "it did not end"
        time.sleep(0.05)
    assert len(all_checkpoints(run.checkpoints)) == 1
    assert "finished runs are kept" in "".join(log.read_text() for log in job.log.parent.glob("*.err"))
