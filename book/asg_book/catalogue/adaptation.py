"""Self-training from several starts."""

from collections.abc import Mapping, Sequence

from asg_book.catalogue.published import CRST, CRST_README, PUBLISHED
from asg_book.catalogue.scenes import CAP, DEEPLAB, SCENES, WHOLE, learned_on_scenes
from asg_book.experiment import Experiment, Published
from asg_book.profiles import FIVE, PROXY, SHORT, SMALL, THREE, learned

# Self-training from several starts; the weights of both regularisers are the papers', the rest is not tuned
# (departure 28).
ADAPTATIONS: dict[str, dict | None] = {
    "none": None, "CBST": {}, "MRKLD": {"mrkld": 0.1}, "LRENT": {"lrent": 0.25},
    "MRKLD + LRENT": {"mrkld": 0.1, "lrent": 0.25},
}  # fmt: skip
MAIN_ADAPTATIONS = ("none", "CBST", "MRKLD + LRENT")  # of whole images; of scenes all
STARTS = {"vanilla": SMALL, "guidance": {**SMALL, **PROXY}, "ASG": {**learned("asg"), **PROXY}}
SCENE_STARTS = {"vanilla": SMALL, "guidance": {**SMALL, **WHOLE}, "ASG": {**learned_on_scenes("asg"), **WHOLE, **CAP}}


def adapted(starts: Mapping[str, Mapping], methods: Sequence[str], **settings: object) -> dict[str, dict]:
    """``START, METHOD`` → overrides: every start under each self-training, all of them with ``settings``."""
    chosen = {method: ADAPTATIONS[method] for method in methods}
    return {
        f"{start}, {method}": {**rates, **({} if given is None else {"adapt": {**given, **settings}})}
        for start, rates in starts.items()
        for method, given in chosen.items()
    }


def ahead(methods: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Differences of each start from the first, under each self-training."""
    first, *others = STARTS
    return tuple((f"{start}, {method}", f"{first}, {method}") for start in others for method in methods)


EXPERIMENTS = (
    Experiment(
        "adaptation",
        "Does the better start stay ahead when a network labels the photos itself?",
        adapted(STARTS, MAIN_ADAPTATIONS),
        seeds=FIVE,
        differences=ahead(MAIN_ADAPTATIONS),
        common=SHORT,
        published={"vanilla, none": PUBLISHED["vanilla"], "ASG, none": PUBLISHED["ASG"]},
    ),
    Experiment(
        "adaptation_half",
        "And on photos that it has not seen, not even without their labels?",
        adapted(STARTS, ("MRKLD + LRENT",), half=True),
        seeds=THREE,
        differences=ahead(("MRKLD + LRENT",)),
        common=SHORT,
    ),
    Experiment(
        "adaptation_scenes",
        "And when every pixel is labelled?",
        adapted(SCENE_STARTS, tuple(ADAPTATIONS), length=0.125),
        seeds={"mini": (0, 1, 2)},
        metric="miou",
        differences=ahead(tuple(ADAPTATIONS)),
        common={**SCENES, "paper": {**SCENES["paper"], **DEEPLAB, "backbone": "torchvision:resnet101"}},
        published={f"vanilla, {method}": Published(value, CRST_README) for method, value in CRST.items()},
    ),
)
