"""Killed by SIGKILL at any moment and resumed, a run ends with the bytes of one that nothing happened to."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import SEARCH, Bench, StopAt

import lorakit
from lorakit.artifacts import fault_points
from lorakit.errors import Interrupted, RunError
from lorakit.workflow.doctor import crash_resume
from lorakit.workflow.doctor.crash_resume import crash_and_resume, differences, outcome
from lorakit.workflow.doctor.faults import Ended, FaultInjector, Kill, run_process

# 12 steps; a checkpoint after every third, an evaluation after 5, 10 and 12, ticks before 0, 3, 6, 9, a line after every second.
OFTEN = ("run.checkpoint_every=0.5", "evaluation.every_steps=5")
HETERO = (*OFTEN, *SEARCH, "search.every=0.5", "search.enable=0.4")
UNITS = (*OFTEN, "search.every=0.5", "training.accumulate=2", "training.batch_size=4")
GLORA = (
    *OFTEN,
    "adapter.method=glora",
    "adapter.dropout=0",
    "search.method=glora",
    "search.options={holdout: 0.2, population: 4, parents: 2, generations: 3}",
)


def test_every_fault_point_is_come_by(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By one search within a training that is resumed, and one evolution; each point that begins ends, the inner ones first."""
    injector = FaultInjector(None, tmp_path / "notes")
    monkeypatch.setattr(fault_points, "installed", injector)
    loaded = bench.load(*HETERO)
    with pytest.raises(Interrupted):
        lorakit.train(loaded, run_dir=tmp_path / "run", hooks=[StopAt(7)])
    lorakit.train(loaded, run_dir=tmp_path / "run", resume=True)
    lorakit.evolve(bench.load(*GLORA), run_dir=tmp_path / "found")
    assert set(injector.times) == set(fault_points.POINTS)
    assert injector.inside == []
    assert all(seconds > 0 for seconds in injector.seconds.values())
    assert injector.times["resuming"] == 1
    assert injector.times["half a generation"] == 3


def test_a_kill_at_no_fault_point_is_an_error():
    with pytest.raises(ValueError, match="there is no fault point 'lunch': training, "):
        Kill("lunch")


def test_killed_twice(bench: Bench, tmp_path: Path):
    """While it computes a step; then with everything written that was to be written, but not yet in its place."""
    loaded = bench.load(*HETERO)
    kills = [Kill("step", 8, 0.002), Kill("naming", 4)]
    crashes = crash_and_resume(loaded, tmp_path / "killed", kills)
    assert [(crash.kill, crash.resumable) for crash in crashes] == [(kill, True) for kill in kills]
    assert crashes[1].where.endswith("> naming")
    assert not differences(outcome(bench.train(*HETERO).run_dir), outcome(tmp_path / "killed"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "kills"),
    [
        pytest.param(
            HETERO, [Kill("tick", 3, 0.004), Kill("half a record", 3), Kill("resuming", 1, 0.001)], id="ticks"
        ),
        pytest.param(
            (*HETERO, "search.scoring=streaming", "search.off=freeze"),
            [Kill("evaluation", 1, 0.003), Kill("adapter's tensors"), Kill("removing", 4)],
            id="streaming",
        ),
        pytest.param(
            (*UNITS, "adapter.method=adalora", "search.method=adalora", "search.uniform_rank=2"),
            [Kill("checkpoint's tensors", 8), Kill("naming", 2), Kill("summary")],
            id="adalora",
        ),
        pytest.param(
            (*UNITS, "search.method=dylora"), [Kill("step", 5), Kill("last adapter"), Kill("figures")], id="dylora"
        ),
    ],
)
def test_killed_elsewhere(bench: Bench, tmp_path: Path, overrides: tuple[str, ...], kills: list[Kill]):
    crashes = crash_and_resume(bench.load(*overrides), tmp_path / "killed", kills)
    assert [crash.kill for crash in crashes] == kills
    assert not differences(outcome(bench.train(*overrides).run_dir), outcome(tmp_path / "killed"))


@pytest.mark.slow
def test_an_evolution_is_killed_in_its_supernet_and_in_a_generation(bench: Bench, tmp_path: Path):
    loaded = bench.load(*GLORA)
    kills = [Kill("step", 5), Kill("configuration", 7, 0.002), Kill("half a generation", 1), Kill("found run")]
    assert [crash.kill for crash in crash_and_resume(loaded, tmp_path / "killed", kills)] == kills
    lorakit.evolve(loaded, run_dir=tmp_path / "undisturbed")
    assert not differences(outcome(tmp_path / "undisturbed"), outcome(tmp_path / "killed"))


@pytest.mark.slow
def test_before_the_first_checkpoint_resuming_is_refused(bench: Bench, tmp_path: Path):
    loaded, run = bench.load(*OFTEN), tmp_path / "killed"
    assert run_process(loaded, run, kill=Kill("step", 2)).killed
    ended = run_process(loaded, run, resume=True)
    assert (ended.killed, ended.code) == (False, 3)
    assert "there is no checkpoint to resume from" in ended.said


def script(monkeypatch: pytest.MonkeyPatch, *ends: Ended) -> list[tuple[bool, Kill | None]]:
    """Processes end like this, one after the other; what was asked of them."""
    asked: list[tuple[bool, Kill | None]] = []

    def run_process(loaded: object, folder: Path, *, resume: bool, kill: Kill | None) -> Ended:
        asked.append((resume, kill))
        return ends[len(asked) - 1]

    monkeypatch.setattr(crash_resume, "run_process", run_process)
    return asked


KILLED, REFUSED, DONE = Ended(True, "step", -9, ""), Ended(False, "", 3, "no checkpoint"), Ended(False, "", 0, "")


def test_what_was_killed_too_early_is_begun_anew(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = script(monkeypatch, KILLED, REFUSED, KILLED, REFUSED, DONE)
    first, second = Kill("step", 1), Kill("step", 2)
    crashes = crash_and_resume(bench.load(), tmp_path / "run", [first, second])
    assert [crash.resumable for crash in crashes] == [False, False]
    assert asked == [(False, first), (True, second), (False, second), (True, None), (False, None)]


def test_what_was_killed_after_its_last_word_is_not_resumed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = script(monkeypatch, KILLED)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").touch()
    assert len(crash_and_resume(bench.load(), tmp_path / "run", [Kill("step"), Kill("step")])) == 1
    assert len(asked) == 1


@pytest.mark.parametrize("ended", [REFUSED, Ended(False, "", 1, "Traceback"), Ended(False, "", -9, "out of memory")])
def test_what_fails_by_itself_did_not_survive(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Ended
):
    script(monkeypatch, KILLED, ended)
    monkeypatch.setattr(crash_resume, "resumable", lambda loaded, folder: True)
    with pytest.raises(RunError, match=f"ended with code {ended.code}: {ended.said}"):
        crash_and_resume(bench.load(), tmp_path / "run", [Kill("step")])


def test_outcomes_differ_in_bytes_records_and_files_but_not_in_times(tmp_path: Path):
    for side, seconds, loss in (("one", 1, 0.5), ("other", 2, 0.25)):
        folder = tmp_path / side
        folder.mkdir()
        (folder / "summary.json").write_text(f'{{"seconds": {seconds}, "best": {{"accuracy": 1}}}}')
        (folder / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 1}}\n{{"step": 2, "loss": {loss}}}\n')
        (folder / "x.safetensors").write_bytes(bytes(seconds))
        (folder / "environment.json").write_text(f"[{seconds}]")
    (tmp_path / "one" / "task.json").write_text("{}")
    (tmp_path / "other" / ".best.partial").write_text("")
    one, other = outcome(tmp_path / "one"), outcome(tmp_path / "other")
    assert differences(one, one) == []
    assert differences(one, other) == [
        ".best.partial is left over",
        'metrics.jsonl differs: record 2: {"step": 2, "loss": 0.5} and {"step": 2, "loss": 0.25}',
        "task.json is missing",
        "x.safetensors differs: 1 and 2 bytes",
    ]
