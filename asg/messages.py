"""What a command tells beside its results: the package's `logging`, on the standard error stream and above the bars."""

import logging
import os
import sys

from asg import launcher

LEVELS = ("--quiet", "--verbose")  # options that may stand anywhere in a command line


class AboveBars(logging.Handler):
    """Writes each message to the standard error stream, above what tqdm draws there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        from tqdm import tqdm  # its import decides, by the environment, whether there are bars

        tqdm.write(self.format(record), file=sys.stderr)


def listen(level: int = logging.INFO) -> None:
    """Show the messages of the package from ``level`` on; above INFO there are no progress bars either.

    Of several processes the main one alone tells.
    """
    if level > logging.INFO:
        os.environ["TQDM_DISABLE"] = "1"
    logger = logging.getLogger("asg")
    logger.handlers[:] = [AboveBars()]
    logger.setLevel(level if launcher.is_main() else logging.CRITICAL + 1)


def with_level_first(words: list[str]) -> list[str]:
    """The words of a command line with those of :data:`LEVELS` before the command, wherever they were given."""
    return sorted(words, key=lambda word: word not in LEVELS)
