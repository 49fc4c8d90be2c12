"""What was tried, on other seeds than the tables have, before settings were chosen."""

from asg_book.experiment import Experiment
from asg_book.profiles import SHORT, SMALL, TRIALS

# Lengths and base rates of plain training that were tried on drawings and CAD renders ("trials", "trials_large").
TRIED_STEPS, TRIED_SMALL, TRIED_LARGE = (100, 200, 400), (0.003, 0.01, 0.03), (0.001, 0.003, 0.01)

EXPERIMENTS = (
    Experiment(
        "trials",
        "How long, and at which base rate, should plain training go on, by held-out synthetic images?",
        {
            f"{rate:g}, {steps} steps": {
                **SMALL,
                "lr": rate,
                "steps": steps,
                "warmup": steps // 10,
                "toy": {"steps": steps // 25, "warmup": 1},
            }
            for steps in TRIED_STEPS
            for rate in TRIED_SMALL
        },
        seeds=TRIALS,
        common={profile: {"evaluations": 1} for profile in TRIALS},
    ),
    Experiment(
        "trials_large",
        "And which base rate, where the backbone has the head's?",
        {f"{rate:g}": {"backbone_factor": 1.0, "lr": rate} for rate in TRIED_LARGE},
        seeds=TRIALS,
        common={profile: {"evaluations": 1} for profile in TRIALS},
    ),
    Experiment(
        "trials_short",
        "Does plain training still fall below the frozen backbone in the smaller runs?",
        {"plain": {**SMALL}, "frozen": {"backbone_factor": 0.0}},
        seeds={"cartoon": TRIALS["cartoon"]},
        common=SHORT,
    ),
    Experiment(
        "setting",
        "In which setting does plain synthetic training wear down what the ImageNet network knows?",
        {
            f"{ground}, {backdrop}{', frozen' if frozen else ''}": {
                "rendering": {"ground": ground, "backdrop": backdrop},
                "backbone_factor": 0.0 if frozen else 0.1,
            }
            for backdrop in ("white", "scenes")
            for ground in ("patches", "grey")
            for frozen in (False, True)
        }
        | {
            "grey, scenes, lr .003": {**SMALL, "lr": 0.003},
            "grey, scenes, lr .03": {**SMALL, "lr": 0.03},
            "grey, scenes, 96 px": {**SMALL, "size": 96},
        },
        seeds={"mini": (0,)},
    ),
)
