"""Work in several processes of this machine, which end with the command that started them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process


def in_workers(call: Callable, arguments: list[tuple], jobs: int) -> Iterator[tuple[tuple, object]]:
    """Each tuple of ``arguments`` with what ``call`` gives for it in one of ``jobs`` processes, as they finish."""
    os.environ["TQDM_DISABLE"] = "1"  # of the workers: tqdm looks here where it is imported
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):  # else glibc gives memory back at every step
        os.environ.setdefault(name, str(2**32))
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=work_for_parent)
    try:
        waiting = {pool.submit(call, *given): given for given in arguments}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def work_for_parent() -> None:
    """End a worker with the command that started it; its run can be resumed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def follow() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
