import io
from dataclasses import asdict, fields
from types import SimpleNamespace

import pytest

from lorakit.cli.output import listening, say
from lorakit.cli.progress import REDRAWS, ProgressHook, figures, lines_of
from lorakit.training.hooks import TrainState


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(hook: ProgressHook, steps: int = 40) -> None:
    state = TrainState(total_steps=steps, steps_per_epoch=20, sites_on=2, sites_total=3, lr=5e-4)
    with hook:
        hook.on_train_begin(state)
        for step in range(1, steps + 1):
            if state.step in (0, 20):
                hook.on_tick(state)
            state.step, state.loss = step, 0.7 - step / 100
            hook.after_step(state)
            if step % 20 == 0:
                state.scores = {"accuracy": 0.5 + step / 100}
                hook.on_evaluation(state)
        hook.on_train_end(state)


def test_without_a_terminal_there_is_a_line_per_tenth_evaluation_and_tick(capsys):
    train(ProgressHook())
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "\x1b" not in err
    assert lines[0] == "training 40 steps from step 0, 20 an epoch"
    assert sum(line.startswith("step ") for line in lines) == 10
    assert lines.count("epoch 1.00, step 20: accuracy 0.7000") == 1
    assert [line for line in lines if line.startswith("tick")] == [
        "tick at step 0: 2 of 3 sites on",
        "tick at step 20: 2 of 3 sites on",
    ]
    assert "step 4/40  epoch 0.20  loss 0.660  lr 5.0e-04  sites 2/3" in lines


def test_quiet_shows_nothing(capsys):
    train(ProgressHook(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_a_resumed_training_does_not_repeat_the_tenths_that_were_done(capsys):
    hook = ProgressHook()
    state = TrainState(total_steps=100, steps_per_epoch=100, step=50)
    hook.on_train_begin(state)
    state.step = 51
    hook.after_step(state)
    assert capsys.readouterr().err == "training 100 steps from step 50, 100 an epoch\n"


def test_on_a_terminal_the_display_is_live_and_given_back(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    hook = ProgressHook()
    train(hook)
    assert hook.display is None
    written = stream.getvalue()
    assert "40/40" in written
    assert "accuracy 0.7000" in written
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0  # the cursor is back


def test_the_terminal_is_given_back_when_the_training_fails(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    hook = ProgressHook()
    hook.on_train_begin(TrainState(total_steps=10, steps_per_epoch=10))
    with pytest.raises(KeyboardInterrupt), hook:
        raise KeyboardInterrupt
    assert hook.display is None


def test_figures_leave_out_what_is_unknown():
    state = TrainState(total_steps=10, steps_per_epoch=10, step=5, lr=1e-3)
    assert figures(state) == ["epoch 0.50", "lr 1.0e-03"]
    state.loss, state.scores, state.sites_on, state.sites_total, state.next_tick = 0.5, {"f1": 0.25}, 1, 4, 8
    assert figures(state) == ["epoch 0.50", "loss 0.500", "lr 1.0e-03", "f1 0.2500", "sites 1/4", "next tick 8"]


def test_the_loss_is_that_of_the_newest_steps():
    """Of two processes this one has half of the loss: 0.5, 0.1, 0.1, 0.1, 0.1, 0.1 are steps of twice that."""
    state = TrainState(total_steps=10, steps_per_epoch=10, loss=9.0)
    assert state.fresh_loss() == 9.0
    losses = [0.5]
    state.watch(losses, 2)
    assert state.fresh_loss() == 1.0
    losses += [0.1] * 5
    assert state.fresh_loss() == pytest.approx(0.2)
    losses.clear()
    assert state.fresh_loss() == 9.0
    assert set(asdict(state)) == {field.name for field in fields(TrainState)}  # checkpoints keep none of it


def test_every_figure_is_shown_at_80_columns():
    state = TrainState(total_steps=9999, steps_per_epoch=100, step=1234, lr=4.1e-4, loss=0.612)
    state.scores = {"accuracy": 0.7412, "f1": 0.8123, "accuracy/validation_mismatched": 0.7412}
    state.sites_on, state.sites_total, state.next_tick = 11, 148, 1300
    shown = lines_of(figures(state), 80)
    assert all(len(line) <= 80 for line in shown)
    assert "  ".join(shown) == "  ".join(figures(state))
    assert len(shown) == 2


def test_the_display_asks_for_figures_no_more_often_than_it_is_redrawn(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    clock = iter(range(1000))
    monkeypatch.setattr("lorakit.cli.progress.time", SimpleNamespace(monotonic=lambda: next(clock) / 100))
    asked = []
    monkeypatch.setattr(TrainState, "fresh_loss", lambda state: asked.append(state.step))
    train(ProgressHook(), steps=100)
    assert 1 <= len(asked) <= 100 / 100 * REDRAWS + 2


def test_talk_is_printed_above_the_live_display(monkeypatch):
    """After the bar's line was erased, and not behind it."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with listening(), ProgressHook() as hook:
        hook.on_train_begin(TrainState(total_steps=10, steps_per_epoch=10))
        say("scoring 3 sites")
        hook.close()
        say("later")
    before, told, after = stream.getvalue().partition("scoring 3 sites\n")
    assert told
    assert before.endswith("\x1b[2K")
    assert after.endswith("later\n")
