"""``--on slurm``: workers are the jobs of an array that submitit submits; with the option ``cluster=local`` they are processes here.

A job that comes to the end of its time is queued again by submitit, three times; its runs go on from their checkpoints, with whichever
job comes first. Jobs outlive the process that submitted them: jobs.json, beside the call, says which they are.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import read_json, write_json
from lorakit.artifacts.lock import born
from lorakit.errors import RunError, UsageError, nearest
from lorakit.workflow.experiments.elsewhere import work
from lorakit.workflow.experiments.more_workers import share_of_cores
from lorakit.workflow.experiments.request import Request

logger = logging.getLogger(__name__)

RECORD = "jobs.json"
LOCAL, SLURM = "local", "slurm"
DAY = 24 * 60
REFUSED = {
    "nodes": "a worker is one process: --workers gives the number of jobs",
    "tasks_per_node": "a worker is one process: --workers gives the number of jobs",
    "ntasks_per_node": "a worker is one process: --workers gives the number of jobs",
    "time": "timeout_min=MINUTES gives the time of a job",
    "additional_parameters": "Slurm's environment variables (SBATCH_...) give what has no name here",
}
LISTS = ("setup", "teardown", "srun_args")  # commands and words, one with each mention


class OnSlurm:
    """Starts workers by submitit."""

    def check(self, asked: Request) -> None:
        """Raises UsageError where submitit or Slurm is not there, or it is not said how many jobs, or with what option that is none."""
        try:
            import submitit  # noqa: F401 - is it there?
        except ImportError:
            hint = "pip install 'lorakit[slurm]'"
            raise UsageError("needs submitit, which is not installed", where="--on slurm", hint=hint) from None
        options = read_options(asked.slurm)
        if options["cluster"] == SLURM and not shutil.which("sbatch"):
            raise UsageError(
                "there is no sbatch on this machine",
                where="--on slurm",
                valid="a machine that submits to Slurm",
                hint="--slurm-option cluster=local, which starts the workers here",
            )
        if asked.workers is None:
            raise UsageError("--on slurm needs the number of jobs", where="--workers", hint="--workers 4")

    @contextmanager
    def started(self, call: Path, asked: Request, most: int) -> Iterator[Sequence[SlurmJob]]:
        """The jobs of an earlier call that are not done, else as many as are asked for. Those of this call are cancelled with it."""
        if earlier := unfinished(call):
            call.unlink()
            call.parent.rmdir()
        yield earlier or submit(call, asked, most)


@dataclass(frozen=True)
class SlurmJob:
    """One worker. job: submitit's; process: of a job that is a process here, its number and when it was born; mine: by this call."""

    number: int
    job: Any
    log: Path
    process: tuple[int, str] | None
    mine: bool

    @property
    def name(self) -> str:
        """Its number in the queue."""
        return f"job {self.job.job_id}"

    def done(self) -> bool:
        """Whether it has ended."""
        if self.process is None or self.mine:
            return bool(self.job.done())
        number, birth = self.process
        return born(number) != birth

    def cancel(self) -> None:
        """Ask for its end: a training saves where it is. Jobs of an earlier call stay."""
        if not self.mine:
            logger.info("%s goes on: an earlier call submitted it", self.name)
        elif self.process is None:
            self.job.cancel(check=False)
        else:
            with suppress(ProcessLookupError):
                os.kill(self.process[0], signal.SIGTERM)  # which submitit's controller passes on


@dataclass(frozen=True)
class Part:
    """What a job does; submitit keeps it for another try."""

    call: str
    number: int
    threads: int | None

    def __call__(self) -> None:
        """The work. A stop that is asked for ends it between two trainings too."""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        work(Path(self.call), self.number, self.threads)

    def checkpoint(self) -> Any:
        """The same again, once the job's time is over: runs have their own checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(call: Path, asked: Request, most: int) -> list[SlurmJob]:
    """Submit the jobs. RunError where Slurm refuses them."""
    import submitit

    options = read_options(asked.slurm)
    cluster = options.pop("cluster")
    number = min(asked.workers or 1, most)
    executor = submitit.AutoExecutor(folder=call.parent, cluster=cluster)
    try:
        executor.update_parameters(**options)
        threads = share_of_cores(number) if cluster == LOCAL else None
        jobs = executor.submit_array([Part(str(call), place, threads) for place in range(number)])
    except (
        submitit.core.utils.FailedJobError,
        submitit.core.utils.FailedSubmissionError,
        OSError,
        ValueError,
    ) as error:
        raise RunError(f"the jobs were not taken: {error}", where="--on slurm") from error
    if cluster == SLURM and not any("gpu" in name or name == "slurm_gres" for name in options):
        logger.info("the jobs ask for no GPU: --slurm-option gpus_per_node=1 does")
    births = [(int(job.job_id), born(int(job.job_id))) if cluster == LOCAL else None for job in jobs]
    write_json(call.with_name(RECORD), [[job.job_id, birth] for job, birth in zip(jobs, births, strict=True)])
    return [
        SlurmJob(place, job, log_of(job), birth, mine=True)
        for place, (job, birth) in enumerate(zip(jobs, births, strict=True))
    ]


def unfinished(call: Path) -> list[SlurmJob]:
    """The jobs that an earlier call of the same has submitted to the same folder, where they are not done; empty where there are none."""
    import submitit

    for record in call.parent.parent.glob(f"*/{RECORD}"):
        if read_json(record.with_name(call.name)) != read_json(call):
            continue
        found = []
        for place, (name, process) in enumerate(read_json(record)):
            job: Any = (submitit.SlurmJob if process is None else submitit.LocalJob)(record.parent, name)
            found.append(SlurmJob(place, job, log_of(job), tuple(process) if process else None, mine=False))
        if not all(job.done() for job in found):
            return found
    return []


def log_of(job: Any) -> Path:
    """The file of what a job says."""
    return Path(job.paths.stderr)


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE as submitit calls them, and the cluster. UsageError that tells a key that is none, or not for here."""
    import submitit

    general = {"name": str, "timeout_min": int, "mem_gb": float, "cpus_per_task": int, "gpus_per_node": int}
    own = {*submitit.SlurmExecutor._valid_parameters()} - {*REFUSED, "job_name", "num_gpus", "mem"}
    known = sorted({"cluster", *general, *own})
    options: dict[str, Any] = {"cluster": SLURM, "name": "lorakit", "timeout_min": DAY}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key in REFUSED or key not in known:
            what = f"'{word}' is not KEY=VALUE" if not equals else f"'{key}' is no option of a job"
            hint = REFUSED.get(key) or nearest(key, known)
            raise UsageError(what, where="--slurm-option", valid=", ".join(known), hint=hint)
        if key in LISTS:
            options.setdefault(f"slurm_{key}", []).append(text)
        elif key in general:
            options[key] = number_of(key, text, general[key])
        elif key == "cluster":
            options[key] = text
        else:
            options[f"slurm_{key}"] = plain(text)
    if options["cluster"] not in (SLURM, LOCAL):
        valid = f"{SLURM} or {LOCAL}"
        raise UsageError(f"'{options['cluster']}' is no cluster", where="--slurm-option cluster", valid=valid)
    return options


def number_of(key: str, text: str, kind: type) -> Any:
    """The value of ``key``. UsageError for what is none."""
    try:
        value = kind(text)
    except ValueError:
        valid = "a whole number" if kind is int else "a number"
        raise UsageError(f"'{text}' is not a number", where=f"--slurm-option {key}", valid=valid) from None
    if kind is not str and value < 0:
        raise UsageError(f"{text} is below 0", where=f"--slurm-option {key}", valid="a number from 0")
    return value


def plain(text: str) -> Any:
    """true and false, a whole number, or the text."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdecimal() else text


ENGINE = OnSlurm()
