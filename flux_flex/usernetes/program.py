"""What prolog and epilog have in common as programs: signals, a time limit, and how they speak."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO

from flux_flex.errors import FlexError
from flux_flex.model.quoting import one_line

# Where `flux jobs -o "{user.flex.usernetes}"` finds the cluster's state.
MEMO = "flex.usernetes"
# The eventlog, beside what else the job has in the KVS (RFC 16).
KEY = "flex-usernetes"

# More than an exception of a job needs to say, and less than fills a log.
_LONGEST_LINE = 1200

_CANCELLING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Cancelled(BaseException):
    """A signal: the job was cancelled, or another node failed.

    No Exception, as KeyboardInterrupt is none: libraries catch those wherever they like.
    """


class TooLate(Cancelled):
    """The time for the whole bring-up is over."""


def error_line(error: FlexError) -> str:
    """An error as it stands in a log or in an exception of the job."""
    where = f"{error.where}: " if error.where else ""
    remedy = f"; {error.remedy}" if error.remedy else ""
    return one_line(f"{where}{error.what}{remedy}", _LONGEST_LINE)


def log_to(stream: TextIO) -> None:
    """Send the lines of the log to a stream: what a prolog prints is in `flux dmesg`."""
    logging.basicConfig(stream=stream, format="usernetes: %(message)s", level=logging.INFO)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Raise Cancelled on TERM, INT and HUP."""

    def cancel(number: int, _frame: FrameType | None) -> NoReturn:
        raise Cancelled(f"cancelled by {signal.Signals(number).name}")

    before = {number: signal.signal(number, cancel) for number in _CANCELLING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is cancel:  # else it is ignored, to the end
                signal.signal(number, handler)


@contextmanager
def time_limit(total_s: float) -> Iterator[None]:
    """Raise TooLate, wherever this process is, after ``total_s`` seconds."""

    def late(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TooLate(f"the time for the whole bring-up, {total_s:.0f} s, is over")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, total_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ignore_signals() -> None:
    """From here on nothing interrupts: what is being undone is undone to the end, bounded."""
    for number in _CANCELLING:
        signal.signal(number, signal.SIG_IGN)
