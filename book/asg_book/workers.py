"""Work in several processes of this machine, which end with the command that started them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process

from asg import AsgError, memory
from asg.interrupts import EXIT_CODE, Stopped

QUIET = {"TQDM_DISABLE": "1"}  # of the environment of workers: tqdm looks here where it is imported


def in_workers(call: Callable, arguments: list[tuple], jobs: int) -> Iterator[tuple[tuple, object]]:
    """Each tuple of ``arguments`` with what ``call`` gives for it in one of ``jobs`` processes, as they finish.

    In place of what it would give stands the :class:`AsgError` that it raised.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=work_for_parent)
    try:
        waiting = {pool.submit(attempt, call, *given): given for given in arguments}
        for done in as_completed(waiting):
            try:
                yield waiting[done], done.result()
            except AsgError as error:
                yield waiting[done], error
    except BrokenProcessPool:
        raise AsgError(
            "A process was ended from outside, perhaps for want of memory: run the same command again, perhaps with "
            f"fewer --jobs than {jobs}; it goes on where it was."
        ) from None
    except BaseException:  # asked to end, or the work is no longer wanted: runs write a checkpoint first
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def attempt(call: Callable, *given: object) -> object:
    """What ``call`` gives; a worker that was asked to end takes up nothing more."""
    try:
        return call(*given)
    except Stopped:
        os._exit(EXIT_CODE)


def work_for_parent() -> None:
    """End a worker with the command that started it; its run can be resumed."""
    memory.keep_freed()
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def follow() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
