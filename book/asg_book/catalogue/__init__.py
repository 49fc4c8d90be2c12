"""The catalogue: every table and figure of the book is declared here, once."""

from dataclasses import replace

from asg import AsgError
from asg_book.catalogue import adaptation, guidance, learned_rates, rivals, scenes, settings, successors, synthetic_data
from asg_book.experiment import Experiment
from asg_book.profiles import THREE

ROOMS = (guidance, settings, learned_rates, rivals, successors, synthetic_data, scenes, adaptation)
EXPERIMENTS = {experiment.id: experiment for room in ROOMS for experiment in room.EXPERIMENTS}

# The two tables that lead, on another network (three seeds, for their cost): no strength and no rate is chosen anew.
LITE1 = {
    "cartoon": {"backbone": "timm:tf_efficientnet_lite1", "weights": "lite1"},
    "paper": {"backbone": "torchvision:resnet50"},
}
EXPERIMENTS |= {
    f"{name}_lite1": replace(
        EXPERIMENTS[name], id=f"{name}_lite1", question=question, seeds=THREE, common=LITE1, published={}
    )
    for name, question in (
        ("guidance", "Does what guidance and rates do hang on one network?"),
        ("comparison", "Is the order of the rivals another one on another network?"),
    )
}


def get(name: str) -> Experiment:
    """The experiment of that name; raises :class:`AsgError` that lists the names."""
    if name not in EXPERIMENTS:
        raise AsgError(f"There is no experiment {name!r}: choose from {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
