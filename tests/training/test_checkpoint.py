"""Stopped anywhere and resumed, a run ends bit-identical to one never stopped."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.runs import SEARCH, Bench, Recorder, StopAt, edited_json, records
from support.thinned import crossed, thinned

from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.errors import Interrupted, LorakitError, RunError, UsageError

PLAIN = ("adapter.method=lora", "adapter.dropout=0.2", "evaluation.every_steps=4", "run.log_every=3")
DORA = ("adapter.method=dora", "adapter.dropout=0.2", "training.accumulate=2", "training.schedule=cosine")
HETERO = (*SEARCH, "search.every=0.5", "search.enable=0.4", "evaluation.every_steps=5")
FREEZE = (*HETERO, "search.off=freeze", "training.accumulate=2")


def stopped(bench: Bench, folder: Path, step: int, *overrides: str, **options: Any) -> Interrupted:
    """Train into ``folder`` until Ctrl-C during ``step``."""
    hooks = [StopAt(step), *options.pop("hooks", [])]
    with pytest.raises(Interrupted) as caught:
        bench.train(*overrides, hooks=hooks, run_dir=folder, **options)
    return caught.value


@pytest.fixture(scope="session")
def whole(bench: Bench) -> dict[tuple[str, ...], dict[str, Any]]:
    """Overrides -> the records of the run that was never stopped."""
    cache: dict[tuple[str, ...], dict[str, Any]] = {}

    class Runs(dict[tuple[str, ...], dict[str, Any]]):
        def __missing__(self, overrides: tuple[str, ...]) -> dict[str, Any]:
            self[overrides] = records(bench.train(*overrides).run_dir)
            return self[overrides]

    return Runs(cache)


@pytest.fixture(scope="session")
def put_stopped(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """``put_stopped(folder, step, *overrides)``: a copy of the run that Ctrl-C ended during ``step``, trained once."""
    made: dict[tuple[int, tuple[str, ...]], Path] = {}

    def put(folder: Path, step: int, *overrides: str) -> None:
        if (step, overrides) not in made:
            made[step, overrides] = tmp_path_factory.mktemp("stopped") / "run"
            stopped(bench, made[step, overrides], step, *overrides)
        shutil.copytree(made[step, overrides], folder)

    return put


# Epochs are 6 steps (3 where two batches make one); HETERO ticks before steps 0, 3, 6, 9, FREEZE before 0, 2, 3, 5.
@pytest.mark.parametrize(
    ("overrides", "step"),
    [
        pytest.param(PLAIN, 1, id="first step", marks=pytest.mark.slow),
        pytest.param(PLAIN, 5, id="mid-epoch, mid-line", marks=pytest.mark.slow),  # as where it is killed
        pytest.param(PLAIN, 6, id="end of an epoch, at a checkpoint"),
        pytest.param(PLAIN, 11, id="last but one", marks=pytest.mark.slow),
        pytest.param(DORA, 2, id="dora"),
        pytest.param(HETERO, 2, id="before a tick's step", marks=pytest.mark.slow),
        pytest.param(HETERO, 3, id="at a tick", marks=pytest.mark.slow),  # as at one with a checkpoint
        pytest.param(HETERO, 4, id="after a tick"),
        pytest.param(HETERO, 6, id="at a tick and a checkpoint"),
        pytest.param(FREEZE, 4, id="freeze, accumulating"),
    ],
)
def test_resumed_is_never_stopped(bench: Bench, tmp_path: Path, whole: Any, overrides: tuple[str, ...], step: int):
    folder = tmp_path / "a run"
    stop = stopped(bench, folder, step, *overrides)
    assert stop.exit_code == 130
    assert f"stopped after step {step} of" in str(stop)
    assert shlex.split(stop.problems[0].hint) == ["lorakit", "train", str(folder), "--resume"]
    assert not (folder / "summary.json").exists()
    torch.manual_seed(99)  # another process would start from another state
    bench.train(*overrides, run_dir=folder, resume=True)
    assert records(folder) == whole[overrides]


@pytest.mark.slow
def test_stopped_again_and_again(bench: Bench, tmp_path: Path, whole: Any):
    stopped(bench, tmp_path / "run", 1, *HETERO)
    for step in (3, 4, 9):
        stopped(bench, tmp_path / "run", step, *HETERO, resume=True)
    bench.train(*HETERO, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == whole[HETERO]


class Killed(Exception):
    """Stands in for a death without warning."""


class KillAt(StopAt):
    """Ends the process's training without any goodbye."""

    def after_step(self, state: Any) -> None:
        if state.step == self.step:
            raise Killed


@pytest.mark.parametrize(("overrides", "step"), thinned([(PLAIN, 9), (HETERO, 9)], 2))
def test_killed_without_warning(bench: Bench, tmp_path: Path, whole: Any, overrides: tuple[str, ...], step: int):
    """Records after the last checkpoint are made again, not twice; a line cut in two does no harm."""
    with pytest.raises(Killed):
        bench.train(*overrides, run_dir=tmp_path / "run", hooks=[KillAt(step)])
    assert max(record["step"] for record in read_jsonl(tmp_path / "run" / "metrics.jsonl")) > 6
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 9, "lo')
    bench.train(*overrides, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == whole[overrides]


@pytest.mark.parametrize(
    ("file", "damage"),
    crossed(
        ["model.safetensors", "optimizer.safetensors", "streams.safetensors", "state.json", "sums.json"],
        ["truncated", "missing"],
        turn=0,
        every=2,
    ),
)
def test_a_damaged_checkpoint_is_passed_over(
    bench: Bench, put_stopped: Callable[..., None], tmp_path: Path, whole: Any, file: str, damage: str
):
    put_stopped(tmp_path / "run", 8, *PLAIN)
    newest = tmp_path / "run" / "checkpoints" / "step-8" / file
    content = newest.read_bytes()
    newest.unlink()
    if damage == "truncated":
        newest.write_bytes(content[: len(content) // 2])
    seen = Recorder()
    bench.train(*PLAIN, run_dir=tmp_path / "run", resume=True, hooks=[seen])
    assert seen.seen[0] == ("on_train_begin", 6)
    assert records(tmp_path / "run") == whole[PLAIN]


def test_without_a_whole_checkpoint_there_is_nothing_to_resume(
    bench: Bench, put_stopped: Callable[..., None], tmp_path: Path
):
    put_stopped(tmp_path / "run", 2)
    (tmp_path / "run" / "checkpoints" / "step-2" / "state.json").write_text("{")
    with pytest.raises(RunError, match="no checkpoint to resume from") as caught:
        bench.train(run_dir=tmp_path / "run", resume=True)
    assert (caught.value.exit_code, caught.value.problems[0].where) == (1, str(tmp_path / "run"))


def test_hooks_go_on_from_their_state(bench: Bench, tmp_path: Path):
    """Also at the end of an epoch: what was called before the stop is not called again, and nothing is left out."""
    through = Recorder()
    bench.train(hooks=[through])
    stopped(bench, tmp_path / "run", 6, hooks=[Recorder("recorder")])
    after = Recorder("recorder")
    bench.train(run_dir=tmp_path / "run", resume=True, hooks=[after])
    assert [call for call in after.seen if call != ("on_train_begin", 6)] == through.seen


@contextmanager
def resealed(checkpoint: Path) -> Iterator[Any]:
    """The state in a checkpoint, changed in the block by somebody who mends the sums too."""
    with edited_json(checkpoint / "state.json") as state:
        yield state
    with edited_json(checkpoint / "sums.json") as sums:
        sums["state.json"] = hashlib.sha256((checkpoint / "state.json").read_bytes()).hexdigest()


@pytest.mark.parametrize(("missing", "what"), [(True, "has no state of search"), (False, "has the state of stranger")])
def test_a_state_without_its_hook_or_a_hook_without_its_state(
    bench: Bench, put_stopped: Callable[..., None], tmp_path: Path, missing: bool, what: str
):
    put_stopped(tmp_path / "run", 4, *HETERO)
    with resealed(tmp_path / "run" / "checkpoints" / "step-4") as state:
        if missing:
            del state["hooks"]["search"]
        else:
            state["hooks"]["stranger"] = {}
    with pytest.raises(RunError, match=what):
        bench.train(*HETERO, run_dir=tmp_path / "run", resume=True)


def test_two_hooks_of_one_name_are_a_mistake_of_who_wrote_them(bench: Bench, tmp_path: Path):
    with pytest.raises(ValueError, match="recorder, recorder"):
        bench.train(hooks=[Recorder("recorder"), Recorder("recorder")], run_dir=tmp_path / "run")


def test_a_checkpoint_of_the_first_format_is_resumed(
    bench: Bench, put_stopped: Callable[..., None], tmp_path: Path, whole: Any
):
    """It kept states under class names, the search's allocator as a policy."""
    put_stopped(tmp_path / "run", 4, *HETERO)
    with resealed(tmp_path / "run" / "checkpoints" / "step-4") as state:
        del state["format"]
        search = state["hooks"].pop("search")
        state["hooks"] = {"SearchHook": {"policy": search.pop("allocator"), **search}}
    bench.train(*HETERO, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == whole[HETERO]


def test_a_checkpoint_holds_what_trains_and_no_more(bench: Bench, tmp_path: Path):
    stopped(bench, tmp_path / "run", 6, *PLAIN)
    folder = tmp_path / "run" / "checkpoints" / "step-6"
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "streams.safetensors",
        "sums.json",
    ]
    tensors = load_file(folder / "model.safetensors")
    adapters, head = 2 * 2 * 4 * (32 + 32), 32 * 2 + 2  # two layers, q and v, rank 4, width 32
    assert sum(tensor.numel() for tensor in tensors.values()) == adapters + head
    moments = load_file(folder / "optimizer.safetensors")
    assert sum(tensor.numel() for tensor in moments.values()) == 2 * (adapters + head) + len(tensors)
    assert read_json(folder / "state.json")["train"]["step"] == 6


def test_only_the_newest_checkpoints_are_kept(bench: Bench, tmp_path: Path):
    settings = ("run.checkpoint_every=0.34", "run.keep_checkpoints=3", "training.epochs=4")
    bench.train(*settings, run_dir=tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step-18", "step-21", "step-24"}


def test_no_file_of_a_run_can_hold_a_pickle(bench: Bench, tmp_path: Path):
    bench.train(*HETERO, run_dir=tmp_path / "run")
    suffixes = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl", ".yaml"}


def test_seconds_count_what_came_before_the_stop(bench: Bench, tmp_path: Path):
    stopped(bench, tmp_path / "run", 10, *HETERO)
    state = read_json(tmp_path / "run" / "checkpoints" / "step-10" / "state.json")
    result = bench.train(*HETERO, run_dir=tmp_path / "run", resume=True)
    assert result.seconds > state["train"]["seconds"] > 0
    assert result.seconds > result.search_seconds >= state["hooks"]["search"]["seconds"] > 0


def test_a_changed_recipe_is_not_resumed(bench: Bench, put_stopped: Callable[..., None], tmp_path: Path):
    put_stopped(tmp_path / "run", 2)
    with pytest.raises(UsageError, match=r"the recipe has changed since this run began: training\.lr"):
        bench.train("training.lr=1e-4", run_dir=tmp_path / "run", resume=True)
    bench.train("run.keep_checkpoints=1", run_dir=tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="trained to its end already"):
        bench.train(run_dir=tmp_path / "run", resume=True)


def test_a_checkpoint_that_does_not_fit_is_an_error(bench: Bench, put_stopped: Callable[..., None], tmp_path: Path):
    """Whole by its sums, but of another model."""
    put_stopped(tmp_path / "run", 2)
    stopped(bench, tmp_path / "other", 2, "adapter.rank=2")
    ours, theirs = (tmp_path / name / "checkpoints" / "step-2" for name in ("run", "other"))
    (ours / "model.safetensors").write_bytes((theirs / "model.safetensors").read_bytes())
    with edited_json(ours / "sums.json") as sums:
        sums["model.safetensors"] = read_json(theirs / "sums.json")["model.safetensors"]
    with pytest.raises(LorakitError):
        bench.train(run_dir=tmp_path / "run", resume=True)


def test_resuming_leaves_what_would_have_been_left(bench: Bench, tmp_path: Path):
    """A kill before the last deletion: one checkpoint too many, and one that is damaged."""
    settings = ("run.checkpoint_every=0.34", "run.keep_checkpoints=2")
    stopped(bench, tmp_path / "run", 8, *settings)
    root = tmp_path / "run" / "checkpoints"
    shutil.copytree(root / "step-6", root / "step-4")
    (root / "step-8" / "model.safetensors").write_bytes(b"")
    stopped(bench, tmp_path / "run", 7, *settings, resume=True)
    assert {path.name for path in root.iterdir()} == {"step-6", "step-7"}
    bench.train(*settings, run_dir=tmp_path / "run", resume=True)
