"""The first signal asks, the second insists."""

import os
import signal
import threading

import pytest

from lorakit.training.interrupt import listening


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_a_wish_then_an_order(number: int):
    before = signal.getsignal(number)
    with listening() as stop:
        assert not stop.made
        os.kill(os.getpid(), number)
        assert stop.made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_the_old_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="broken"), listening():
        raise ValueError("broken")
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_trains_without_listening():
    made: list[bool] = []

    def train() -> None:
        with listening() as stop:
            made.append(stop.made)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert made == [False]
