"""Synthetic images of other number, look, detail and style."""

from asg_book.experiment import Experiment
from asg_book.profiles import PROXY, SHORT, SMALL, THREE

# Synthetic data of other quantity and quality than {} has: axis → point → overrides.
DATA: dict[str, dict[str, dict]] = {
    "number": {**{f"{n}": {"synthetic": {"per_class": n}} for n in (20, 100)}, "all": {}},
    "look": {
        "outlines alone": {"synthetic": {"look": "edges"}}, "grey": {"synthetic": {"look": "grey"}}, "as drawn": {},
    },
    "detail": {**{f"{n} pixels": {"synthetic": {"detail": n}} for n in (12, 48)}, "as drawn": {}},
    # as many drawings of each
    "style": {
        "sketches": {"synthetic": {"per_class": 100}, "cartoon": {"data": "pacs-sketch"}},
        "outlines of cartoons": {"synthetic": {"per_class": 100, "look": "edges"}},
        "cartoons": {"synthetic": {"per_class": 100}},
    },
}  # fmt: skip
METHODS = {"frozen": {"backbone_factor": 0.0}, "plain": SMALL, "guided": {**SMALL, **PROXY}}

EXPERIMENTS = (
    *(
        Experiment(
            f"data_{axis}",
            question,
            {
                f"{point}, {method}": {**synthetic, **rates}
                for point, synthetic in DATA[axis].items()
                for method, rates in METHODS.items()
            },
            seeds=THREE,
            differences=tuple((f"{point}, guided", f"{point}, plain") for point in DATA[axis]),
            claims=((f"{list(DATA[axis])[-1]}, guided", f"{next(iter(DATA[axis]))}, guided"),),
            common=SHORT,
        )
        for axis, question in (
            ("number", "How many drawings of a class does synthetic training need?"),
            ("look", "What of a drawing must be there: colour, tones, or its outlines alone?"),
            ("detail", "How fine must drawings be?"),
            ("style", "Which drawings: cartoons, their outlines, or sketches by another hand?"),
        )
    ),
)
