"""Figures in a notebook: shown once, redrawn while a run goes on, or replaced by what says how to get their images."""

import html
import io
from base64 import b64encode
from collections.abc import Callable, Sequence

from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from asg import AsgError
from asg.data import data_root
from asg_book import analysis, plots


def live(metrics: Sequence[str] = ("train_task", "validation", "accuracy", "agreement")) -> Callable[[dict], None]:
    """A function for ``on_evaluation`` that redraws the curves of the run in one output."""
    handle, seen = display(Markdown("training …"), display_id=True), []

    def redraw(evaluation: dict) -> None:
        seen.append(evaluation)
        figure = plots.over_training(analysis.curves({"run": [{"seed": 0, "evaluations": seen}]}, metrics), metrics)
        handle.update(figure)
        plots.plt.close(figure)

    return redraw


def figure(drawn: Figure) -> Figure:
    """Show a figure once (a figure that stays open would be shown a second time)."""
    plots.plt.close(drawn)
    return drawn


def inline(drawn: Figure, alt: str) -> HTML:
    """A figure with its alternative text in one piece, for a page that quotes another."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    plots.plt.close(drawn)
    source = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    return HTML(f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="{source}">')


def pictured(draw: Callable[..., Figure], *given: object, **named: object) -> Figure | Markdown:
    """:func:`figure` of what ``draw`` gives; where an image that it shows cannot be read, what says how to get it.

    Optional benchmarks may not be passed on, and a page is read without them.
    """
    try:
        return figure(draw(*given, **named))
    except AsgError as error:
        plots.plt.close("all")  # what was begun
        return Markdown(str(error).replace(str(data_root()), "data"))  # a page is read on other machines
