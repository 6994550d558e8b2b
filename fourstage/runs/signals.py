"""Ctrl-C and kill: turned into exceptions, and delayed while something must not be left half done.

with signals_raised():          # a command, or a job in a launcher's process
    ...
    with signals_held():        # a second signal ends the process at once
        folder.end("KILLED")
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """SIGTERM: like Ctrl-C, the samples that are finished are saved."""


@contextmanager
def signals_raised() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C and Terminated on kill, also where a library has changed the handlers."""
    if not _in_main_thread():
        yield
        return
    handlers = {number: signal.signal(number, _raise) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay Ctrl-C and kill until the block is done; a second signal ends the process at once."""
    if not _in_main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hold(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        _raise(received[0])


def _in_main_thread() -> bool:
    """Python delivers signals to the main thread alone; a launcher may run jobs in others."""
    return threading.current_thread() is threading.main_thread()


def _raise(number: int, _: object = None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
