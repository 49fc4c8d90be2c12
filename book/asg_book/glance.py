"""The paper at a glance: which arms of this book answer each of its tables and figures, under which metric."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from asg_book.catalogue import EXPERIMENTS
from asg_book.catalogue.adaptation import ADAPTATIONS, MAIN_ADAPTATIONS
from asg_book.catalogue.published import CSG_TABLE_1, CSG_TABLE_5
from asg_book.catalogue.synthetic_data import DATA
from asg_book.experiment import Published


@dataclass(frozen=True)
class Panel:
    """Arms of an experiment under one metric, beside published values, and what is claimed of them.

    Each claim is the difference of two arms. ``quoted`` holds published values besides those of the experiment, also of
    methods that are no arm here; ``unverified`` are arms whose value in the paper could not be verified.
    """

    shows: str
    chapter: str
    experiment: str
    metric: str = "accuracy"
    arms: tuple[str, ...] = ()  # none: all
    claims: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    quoted: Mapping[str, Published] = field(default_factory=dict)
    unverified: tuple[str, ...] = ()

    @property
    def main(self) -> bool:
        """Whether the metric is the one that the experiment is judged by."""
        return self.metric == EXPERIMENTS[self.experiment].metric

    @property
    def published(self) -> dict[str, Published]:
        """Published values under this metric by arm or method."""
        return {**(EXPERIMENTS[self.experiment].published if self.main else {}), **self.quoted}


GUIDANCE, POLICIES, COMPARISON = "03_proxy_guidance", "05_learning_to_optimise", "07_comparison"
SEGMENTATION, SELF_TRAINING = "12_segmentation", "13_self_training"
KEEPERS = ("vanilla", "weight ℓ2", "SI", "feature ℓ2", "guidance", "ASG")
HSE = {
    "vanilla": (0.4245, 1.25, 1.6028), "weight ℓ2": (0.4014, 1.2296, 1.5302), "SI": (0.3958, 1.2261, 1.5216),
    "feature ℓ2": (0.3337, 1.191, 1.4449), "ASG": (0.3251, 1.184, 1.4229),
}  # fmt: skip
RATES = {"guidance, large rate": ("large_proxy", "large"), "guidance, small rate": ("small_proxy", "small"),
         "learned rates, guided": ("asg", "small_proxy"), "ASG over small rate": ("asg", "small")}  # fmt: skip
RIVALS = {"IBN-Net, before": 22.17, "IBN-Net": 29.64, "DRPC, before": 32.45, "DRPC": 37.42}
RIVALS_101 = {"DRPC, before": 33.56, "DRPC": 42.53}
# The table that leads: what each training reaches on every benchmark, and the two differences that decide.
LEAD = {"large rate": "large", "small rate": "small", "frozen backbone": "frozen", "large rate, guided": "large_proxy",
        "small rate, guided": "small_proxy", "ASG: guided, learned rates": "asg"}  # fmt: skip
LEAD_DIFFERENCES = {"small rate: guided − plain": ("small_proxy", "small"), "plain − frozen": ("small", "frozen")}
UNVERIFIED = tuple(f"{start}, {adaptation}" for start in ("vanilla", "ASG") for adaptation in MAIN_ADAPTATIONS[1:])


def ahead(where: str, *methods: str) -> dict[str, tuple[str, str]]:
    """Claims that under each self-training the ASG start is ahead of the vanilla one."""
    return {f"{where}, {method}": (f"ASG, {method}", f"vanilla, {method}") for method in methods}


PAPER = {
    "guidance": (
        Panel("ImageNet accuracy before training", "02_the_gap", "oracle", "imagenet", unverified=("imagenet",)),
        Panel("Accuracy on photographs", GUIDANCE, "guidance", claims=RATES,
              unverified=("large", "large_proxy", "small_proxy")),
        Panel("ImageNet accuracy after training", GUIDANCE, "guidance", "imagenet", claims=RATES,
              unverified=tuple(EXPERIMENTS["guidance"].arms)),
    ),
    "comparison": (
        Panel("Oracle on ImageNet: no training", "02_the_gap", "oracle", "kept"),
        Panel("Accuracy on photographs", COMPARISON, "comparison", arms=(*KEEPERS, "frozen", "early stopping", "EWC"),
              claims={f"ASG over {rival}": ("ASG", rival) for rival in KEEPERS[:4]}),
        *(Panel(f"Hyperspherical energy, s = {s}", COMPARISON, "comparison", f"hse{s}", arms=KEEPERS,
                claims={"ASG": ("ASG", "vanilla"), "guidance": ("guidance", "vanilla")},
                quoted={arm: Published(values[s], CSG_TABLE_1) for arm, values in HSE.items()}) for s in range(3)),
    ),
    "policies": (
        Panel("Accuracy on photographs", POLICIES, "policies",
              claims={"policy over random": ("asg", "random_proxy"), "… over random once": ("asg", "random_once_proxy"),
                      "… over a search": ("asg", "search_proxy"), "… over a hand": ("asg", "small_proxy")}),
        Panel("What the policy is paid for", "06_ablations", "rewards"),
        Panel("Which groups share a rate", "06_ablations", "policy_design"),
    ),
    "segmentation": (
        Panel("mIoU; in the paper FCN-8s on VGG-16", SEGMENTATION, "segmentation", "miou",
              claims={"scenes, whole map": ("whole map", "vanilla"), "scenes, patches": ("patches", "vanilla"),
                      "scenes, ASG": ("asg", "vanilla")}),
        *(Panel(f"mIoU; published with ResNet-{depth}", SEGMENTATION, f"segmentation_resnet{depth}", "miou",
                quoted={name: Published(value, CSG_TABLE_5) for name, value in rivals.items()})
          for depth, rivals in ((50, RIVALS), (101, RIVALS_101))),
    ),
    "self-training": (
        Panel("Accuracy on photographs", SELF_TRAINING, "adaptation", claims=ahead("ASG start", *MAIN_ADAPTATIONS[1:]),
              unverified=UNVERIFIED),
        Panel("On the half that was not adapted to", SELF_TRAINING, "adaptation_half",
              claims=ahead("unseen", "MRKLD + LRENT")),
        Panel("mIoU at every pixel", SELF_TRAINING, "adaptation_scenes", "miou",
              claims=ahead("scenes", *list(ADAPTATIONS)[1:])),
    ),
    "figures": (
        Panel("Likeness of the embeddings to ImageNet's", "09_looking_inside", "comparison", "cka", arms=KEEPERS,
              claims={"guidance": ("guidance", "vanilla")}),
    ),
}  # fmt: skip
BEYOND = {
    "data": tuple(
        Panel(f"Synthetic data: {axis}", "10_synthetic_data", f"data_{axis}",
              claims={"last point over first": (f"{last}, guided", f"{first}, guided"),
                      "guidance, first point": (f"{first}, guided", f"{first}, plain"),
                      "guidance, last point": (f"{last}, guided", f"{last}, plain")})
        for axis, (first, *_, last) in DATA.items()
    ),
    "domain": (
        Panel("Fonts to handwritten digits", "11_another_domain", "digits",
              claims={name: RATES[name] for name in list(RATES)[:2]}),
    ),
}  # fmt: skip
SHOWN = tuple(dict.fromkeys(p.experiment for panels in (PAPER | BEYOND).values() for p in panels))
