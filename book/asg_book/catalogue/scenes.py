"""A class for every pixel."""

from asg_book.catalogue.published import CSG_TABLE_5
from asg_book.experiment import Experiment, Published
from asg_book.profiles import SMALL, learned

# Segmentation: composed scenes in place of GTA5 → Cityscapes; the paper's settings there (departure 23).
SCENES = {
    "toy": {"data": "toy-scenes", "batch": 4, "lr": 0.001},
    "mini": {
        "data": "scenes", "rendering": {"ground": "textures"}, "size": 128, "steps": 250,
        "batch": 8, "lr": 0.02, "warmup": 25, "evaluations": 2, "signals": True,
    },
    "paper": {
        "data": "gta5", "backbone": "torchvision:vgg16", "source_list": "gta5_train.txt", "crop": 512, "batch": 6,
        "steps": 50 * 2000, "lr": 1e-3, "sgd": "torch", "evaluations": 10, "teacher": None,
    },
}  # fmt: skip
DEEPLAB = {"dense_head": "deeplab-v3", "sgd": "reference"}  # what CSG's rows change of these (departure 25)
# The paper's λ for segmentation. On mini, λ is what selection.best_kept chooses on held-out scenes from the records of
# "segmentation_trials", and the base rate the largest within one standard error of the lowest loss; a test compares.
WHOLE = {"guidance": 75.0, "mini": {"guidance": 0.03}, "toy": {"guidance": 0.1}}
PATCHES = {"guidance": 75.0, "chunks": 8, "mini": {"guidance": 0.03, "chunks": 2}, "toy": {"guidance": 0.1}}
TRIED_RATES, TRIED_WEIGHTS = (0.02, 0.01, 0.005, 0.002), (0.01, 0.03, 0.1, 0.3, 1.0)  # at .05 guided training diverges
CAP = {"cap": 9.0}  # of λ · KL, with a policy only


def learned_on_scenes(policy: str) -> dict:
    """The same in segmentation, where the paper's epochs are 2,000 steps and its windows 20 at least."""
    return {**learned(policy), "paper": {"control": {"epoch": 2000, "shortest": 20}}}


EXPERIMENTS = (
    Experiment(
        "segmentation_trials",
        "Which base rate, and how much guidance, before held-out scenes suffer?",
        {f"rate, {rate:g}": {**SMALL, "lr": rate} for rate in TRIED_RATES}
        | {
            f"{form}, {weight:g}": {**SMALL, **pieces, "guidance": weight}
            for form, pieces in (("whole map", {}), ("patches", {"chunks": 2}))
            for weight in TRIED_WEIGHTS
        },
        seeds={"mini": (0,)},
        metric="miou",
        common=SCENES,
    ),
    Experiment(
        "segmentation",
        "Does guidance by a whole-image classifier help answers at every pixel?",
        {
            "frozen": {"backbone_factor": 0.0},
            "vanilla": {**SMALL},
            "whole map": {**SMALL, **WHOLE},
            "patches": {**SMALL, **PATCHES},
            "l2o": learned_on_scenes("l2o"),
            "asg": {**learned_on_scenes("asg"), **WHOLE, **CAP},
        },
        seeds={"mini": (0, 1, 2)},
        metric="miou",
        differences=(
            ("vanilla", "frozen"),
            ("whole map", "vanilla"),
            ("patches", "vanilla"),
            ("patches", "whole map"),
            ("l2o", "vanilla"),
            ("asg", "whole map"),
            ("asg", "vanilla"),
            ("asg", "l2o"),
        ),
        common=SCENES,
        repeated=True,
    ),
    *(
        Experiment(
            f"segmentation_resnet{depth}",
            f"The same with CSG's DeepLab on ResNet-{depth}, as the follow-up's table has it?",
            {"vanilla": {**SMALL}, "asg": {**learned_on_scenes("asg"), **WHOLE, **CAP}},
            seeds={"mini": (0, 1, 2)},
            metric="miou",
            differences=(("asg", "vanilla"),),
            common={**SCENES, "paper": {**SCENES["paper"], **DEEPLAB, "backbone": f"torchvision:resnet{depth}"}},
            published={"vanilla": Published(before, CSG_TABLE_5), "asg": Published(after, CSG_TABLE_5)},
            repeated=True,  # on mini, which has one network, these runs are those of "segmentation"
        )
        for depth, before, after in ((50, 25.88, 29.65), (101, 29.63, 32.79))
    ),
)
