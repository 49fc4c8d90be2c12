"""Figures in a notebook: shown once with their numbers, redrawn during a run, or replaced by what gets their images."""

import html
import io
from base64 import b64encode
from collections.abc import Callable, Sequence

import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from asg import AsgError
from asg.data import data_root
from asg_book import analysis, plots
from asg_book.estimates import Estimate


def live(metrics: Sequence[str] = ("train_task", "validation", "accuracy", "agreement")) -> Callable[[dict], None]:
    """A function for ``on_evaluation`` that redraws the curves of the run in one output."""
    handle, seen = display(Markdown("training …"), display_id=True), []

    def redraw(evaluation: dict) -> None:
        seen.append(evaluation)
        figure = plots.over_training(analysis.curves({"run": [{"seed": 0, "evaluations": seen}]}, metrics), metrics)
        handle.update(figure)
        plots.plt.close(figure)

    return redraw


def figure(drawn: Figure) -> Figure | HTML:
    """Show a figure once (one that stays open would be shown a second time), and under it a link to its numbers."""
    plots.plt.close(drawn)
    if (numbers := getattr(drawn, "numbers", None)) is None:
        return drawn
    display(drawn)
    return download(numbers)


def download(numbers: pd.DataFrame) -> HTML:
    """A link that holds a table as CSV: the page needs no other file, and a reader no network.

    An :class:`~asg_book.estimates.Estimate` is a column each for its mean, standard deviation, interval and n.
    """
    named = not pd.api.types.is_numeric_dtype(numbers.index)  # else it counts lines
    columns = numbers.rename_axis(index="row").reset_index() if named else numbers
    flat = {}
    for name, column in columns.items():
        if len(column) and column.map(lambda value: isinstance(value, Estimate)).all():
            for part in ("mean", "sd", "low", "high", "n"):
                flat[f"{name} {part}"] = column.map(lambda estimate, part=part: getattr(estimate, part))
        else:
            flat[name] = column
    text = pd.DataFrame(flat).to_csv(index=False)
    source = f"data:text/csv;charset=utf-8;base64,{b64encode(text.encode()).decode()}"
    return HTML(f'<a class="numbers" download="numbers.csv" href="{source}">numbers of this figure (CSV)</a>')


def inline(drawn: Figure, alt: str) -> HTML:
    """A figure with its alternative text in one piece, for a page that quotes another."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    plots.plt.close(drawn)
    source = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    return HTML(f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="{source}">')


def pictured(draw: Callable[..., Figure], *given: object, **named: object) -> Figure | HTML | Markdown:
    """:func:`figure` of what ``draw`` gives; where an image that it shows cannot be read, what says how to get it.

    Optional benchmarks may not be passed on, and a page is read without them.
    """
    try:
        return figure(draw(*given, **named))
    except AsgError as error:
        plots.plt.close("all")  # what was begun
        return Markdown(str(error).replace(str(data_root()), "data"))  # a page is read on other machines
