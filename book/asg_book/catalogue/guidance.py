"""What proxy guidance keeps and wins, on every benchmark."""

from asg_book.catalogue.published import PUBLISHED
from asg_book.experiment import Experiment
from asg_book.profiles import EVERYWHERE, LARGE, PROXY, SMALL, TEN, learned

DIGITS = {
    "mini": {
        "data": "digits", "size": 64, "steps": 180, "warmup": 18, "lr": 0.002, "evaluations": 2, "signals": True,
    },
}  # fmt: skip

EXPERIMENTS = (
    Experiment(
        "oracle",
        "What does the ImageNet network know about the photos, with no training at all?",
        {"imagenet": {"steps": 0}},
        seeds={profile: (seeds[0],) for profile, seeds in EVERYWHERE.items()},
        metric="kept",
        published={"imagenet": PUBLISHED["oracle"]},
    ),
    Experiment(
        "guidance",
        "Does proxy guidance keep what the learning rate destroys, and is it worth accuracy on photos?",
        {
            "frozen": {"backbone_factor": 0.0},
            "large": {**LARGE},
            "large_proxy": {**LARGE, **PROXY},
            "small": {**SMALL},
            "small_proxy": {**SMALL, **PROXY},
            "asg": {**learned("asg"), **PROXY},
        },
        seeds={**EVERYWHERE, "cartoon": TEN},
        differences=(
            ("large_proxy", "large"),
            ("small_proxy", "small"),
            ("small", "large"),
            ("small", "frozen"),
            ("small_proxy", "frozen"),
            ("asg", "small_proxy"),
            ("asg", "large_proxy"),
        ),
        claims=(("asg", "small"),),
        published={"small": PUBLISHED["vanilla"], "asg": PUBLISHED["ASG"]},
        repeated=True,
    ),
    Experiment(
        "signals",
        "What do synthetic images say beforehand, where the runs of the tables do not ask them?",
        {"frozen": {"backbone_factor": 0.0}, "small": {**SMALL}, "small_proxy": {**SMALL, **PROXY}},
        seeds={"mini": (0, 1, 2)},
        common={"mini": {"signals": True}},
    ),
    Experiment(
        "lambda",
        "How much guidance?",
        {f"{weight:g}": {**SMALL, "guidance": weight} for weight in (0.0, 0.03, 0.1, 0.3)},
        seeds={**EVERYWHERE, "mini": (0, 1, 2)},
        differences=(("0.03", "0"), ("0.1", "0"), ("0.3", "0")),
    ),
    Experiment(
        "digits",
        "What does ImageNet guidance give where ImageNet has little to say?",
        {
            "frozen": {"backbone_factor": 0.0},
            "small": {**SMALL},
            "small_proxy": {**SMALL, **PROXY},
            "large": {**LARGE},
            "large_proxy": {**LARGE, **PROXY},
        },
        seeds={"mini": (0, 1, 2)},
        differences=(("small_proxy", "small"), ("large_proxy", "large"), ("large", "small"), ("small", "frozen")),
        common=DIGITS,
    ),
)
