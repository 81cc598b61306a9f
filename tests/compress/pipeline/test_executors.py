"""What starts and ends the processes of stages."""

from __future__ import annotations

import signal
import threading

import pytest

from compress.pipeline.executors import signals_wait


def test_an_interrupt_waits_until_a_process_is_started() -> None:
    done = []

    def start() -> None:
        with signals_wait():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the start")
            raise EOFError

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert done
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_get_no_signals() -> None:
    done = []

    def work() -> None:
        with signals_wait():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
