"""Processes side by side, spawned, each with its own threads, which end with the process that started them."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TextIO

import torch

from recolam.errors import RecolamError


@contextmanager
def processes(count: int, *, threads: int) -> Iterator[Executor]:
    """`count` processes of `threads` threads each, which take the tasks that are submitted.

    Where the caller fails, tasks that have not begun are dropped.

    Raises:
        RecolamError: a process was ended from outside, and with it what it was at.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=(threads,)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise RecolamError(f"one of {count} processes was ended, for want of memory perhaps ({error})") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Lines:
    """A stream that no one takes for a terminal: bars of several processes would overwrite each other."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False


def _start(threads: int) -> None:
    """A worker's beginning: its share of the cores, its progress as lines, its end with its parent's."""
    torch.set_num_threads(threads)
    sys.stderr = _Lines(sys.stderr)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, however that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
