"""Figures in a notebook: the link to a figure's numbers gives back the table that was drawn."""

from __future__ import annotations

import base64
import io

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

from asg_book import figures, plots
from asg_book.estimates import estimate


def linked(shown) -> pd.DataFrame:
    """The table that a link holds."""
    link = BeautifulSoup(shown.data, "html.parser").a
    kind, _, text = link["href"].partition(",")
    assert kind == "data:text/csv;charset=utf-8;base64" and link["download"].endswith(".csv")
    return pd.read_csv(io.BytesIO(base64.b64decode(text)))


def test_a_figure_has_its_numbers_under_it():
    table = pd.DataFrame({"metric": "accuracy", "row": ["a − b", "c, λ"], "mean": 0.1, "low": [-0.1, 0.0], "high": 0.3})
    pd.testing.assert_frame_equal(linked(figures.figure(plots.intervals(table, "points"))), table)
    part = table[table["row"] != "a − b"]  # its lines are numbered from 1
    pd.testing.assert_frame_equal(linked(figures.figure(plots.intervals(part, "points"))), part.reset_index(drop=True))


def test_an_estimate_is_a_column_for_each_of_its_parts():
    values = {"plain": [0.5, 0.7], "guided": [0.8, 0.9]}
    table = pd.DataFrame({"accuracy": [estimate(v) for v in values.values()]}, index=list(values))
    numbers = linked(figures.figure(plots.sweep(table, ["accuracy"], "arm")))
    assert list(numbers["row"]) == ["plain", "guided"] and list(numbers["accuracy n"]) == [2, 2]
    assert list(numbers["accuracy mean"]) == pytest.approx([0.6, 0.85])
    assert numbers["accuracy low"][0] < 0.6 < numbers["accuracy high"][0]


def test_a_figure_without_numbers_is_shown_as_it_is():
    assert isinstance(figures.figure(plots.intervals(pd.DataFrame({"metric": [], "row": []}), "points")), Figure)
