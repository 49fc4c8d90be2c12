"""One run, fully described: every field that can change a number is here and nowhere else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from asg import AsgError
from asg.benchmarks import BENCHMARKS

Model = TypeVar("Model", bound=BaseModel)
NAMED_WEIGHTS = ("pretrained", "random", "lite0", "lite1", "lite2")  # else a state-dict file
# Where the data of a run lie, and who reads them.
PLACES = ("source", "sources", "target", "source_list", "class_list", "workers")
# What a policy sees, in the order of the reference's state.
STATISTICS = ("task", "guidance", "progress", "mean", "std")


class Rendering(BaseModel):
    """How the embedded benchmark composes its images; the choice and its trials are in the data appendix."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    seed: int = Field(123, ge=0, description="Seed of every image's own random stream.")
    per_design: int = Field(12, ge=1, description="Images of each training design.")
    per_held_out: int = Field(2, ge=1, description="Images of each validation design.")
    smallest: float = Field(0.5, gt=0, le=1, description="Least longer side of a design, as a share of the image.")
    largest: float = Field(1.0, gt=0, le=1, description="Greatest longer side of a design.")
    angle: float = Field(30.0, ge=0, le=180, description="Greatest rotation of a design, degrees either way.")
    ground: Literal["white", "grey", "patches", "textures"] = Field(
        "grey", description="Behind designs: white, a plain grey drawn anew for each image, soft colours, or textures."
    )
    backdrop: Literal["scenes", "white"] = Field("scenes", description="Behind photographs: scene crops or white.")
    photo: float = Field(0.9, gt=0, le=1, description="Longer side of a photographed object.")
    style: Literal["3d", "modern", "flat", "silhouette"] = Field("3d", description="How the same designs are drawn.")
    pose: Literal["random", "fixed"] = Field(
        "random", description="Random scale, angle, mirror and place of a design, or upright in the middle."
    )
    designs: int | None = Field(None, ge=1, description="Training designs of each class, at most; None: all.")
    detail: int | None = Field(None, ge=1, description="Pixels of a design's longer side, then enlarged; None: all.")

    @model_validator(mode="after")
    def _range(self) -> Rendering:
        if self.smallest > self.largest:
            raise ValueError("smallest must not be above largest")
        return self


class Synthetic(BaseModel):
    """What the synthetic images of a benchmark keep, of themselves; the photographs keep everything."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    per_class: int | None = Field(None, ge=1, description="Training images of each class, at most; None: all.")
    look: Literal["grey", "posterised", "blurred", "edges"] | None = Field(
        None, description="No colour, eight colours, soft, or outlines alone; None: as they are."
    )
    detail: int | None = Field(None, ge=1, description="Pixels of a side, then enlarged; None: all.")


class Control(BaseModel):
    """Who sets the rates of the layer groups, as shares of ``lr``, in place of the hand-tuned schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["learned", "random", "random once", "fixed", "auto-rgn"] = Field(description="Who decides.")
    policy: str | None = Field(None, description="Name in policies/ or .safetensors file (kind = learned).")
    ratios: tuple[float, ...] | None = Field(None, strict=False, description="One a group (kind = fixed).")
    groups: int = Field(7, ge=1, description="Rates to set (kind = random); a policy brings its own number.")
    window: Literal["written", "divided"] = Field("written", description="Rule that lengthens the windows.")
    shortest: int = Field(10, ge=1, description="Steps of the shortest window, and of the first, at ratio 1.")
    epoch: int | None = Field(None, ge=1, description="Steps of an epoch, which ends windows; None: one pass.")
    sampled: bool = Field(True, description="Draw the policy's ratios, or take the likeliest.")
    schedule: bool = Field(False, description="Multiply by the hand-tuned warm-up and decay.")


class Regulariser(BaseModel):
    """Another way to keep ImageNet knowledge than proxy guidance: a penalty on what moves away from the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["weights", "features", "ewc", "si", "csg"] = Field(description="What is penalised.")
    strength: float = Field(gt=0, description="Weight of the penalty in the loss.")
    queue: int | None = Field(None, ge=1, description="Keys of each stage that csg compares with; None: 65,536.")


class Augment(BaseModel):
    """How synthetic images are changed, anew in every step; the photographs and held-out images stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["pasta", "randaugment"] = Field(description="Amplitudes of the spectrum, or random operations.")
    alpha: float = Field(3.0, ge=0, description="PASTA: how much more the highest frequencies vary,")
    k: float = Field(2.0, gt=0, description="the power of that growth,")
    beta: float = Field(0.25, ge=0, description="and how much all of them vary.")
    operations: int = Field(2, ge=1, description="RandAugment: operations an image,")
    magnitude: int = Field(9, ge=0, le=30, description="and their strength, of 30.")


class Project(BaseModel):
    """A distance of each tensor from its ImageNet weights that is learned, and beyond which no step leads."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["tpgm", "ftp"] = Field(description="Learned on held-out synthetic images, or from training batches.")
    norm: Literal["l2", "mars"] = Field("mars", description="Of a whole tensor, or the sum of magnitudes of each row.")
    rate: float = Field(0.01, gt=0, description="Adam's rate.")
    iterations: int = Field(20, ge=1, description="Held-out batches after each pass (tpgm).")


class Average(BaseModel):
    """Which average over the iterates of a training is evaluated, in place of the last one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["ema", "swa"] = Field(description="Exponential, or equal weights from some step on.")
    decay: float = Field(0.99, gt=0, lt=1, description="Weight of the average so far at each step (ema).")
    after: float = Field(0.5, ge=0, lt=1, description="Share of the steps after which iterates count (swa).")


class Adaptation(BaseModel):
    """Self-training on unlabelled target images, after the training that the other settings describe (departure 28)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    mrkld: float = Field(0.0, ge=0, description="Weight of the model regulariser; 0: none.")
    lrent: float = Field(0.0, ge=0, lt=1, description="Entropy weight of soft pseudo-labels; 0: hard ones.")
    rounds: int = Field(3, ge=1, description="Times that the target is labelled anew.")
    portion: float = Field(0.2, ge=0, le=1, description="Share of each predicted class that is labelled first,")
    growth: float = Field(0.1, ge=0, le=1, description="and by how much more in each further round.")
    length: float = Field(0.5, gt=0, description="Steps of a round, and of its warm-up, as a share of the training's.")
    rate: float = Field(0.5, gt=0, description="Peak rate of the task head in a round, as a share of lr.")
    backbone_factor: float = Field(0.1, ge=0, description="Rate of every backbone group, as a share of it.")
    half: bool = Field(False, description="Adapt to every second target image, and report on the others.")
    images: str | None = Field(None, description="Folder of unlabelled images (data = folder or folder-scenes).")


class RunConfig(BaseModel):
    """Settings of one training run (JSON round trip: ``RunConfig(**json.loads(c.to_json())) == c``).

    Units: rates are per step, λ is dimensionless, sizes are pixels. Source of the defaults: the
    paper's VisDA-17 settings (section 4.1) unless a profile overrides them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    profile: Literal["toy", "mini", "cartoon", "sketch", "cad", "paper", "own"] = Field(
        description="Scale of the run; never mixed in one table."
    )
    data: Literal[*BENCHMARKS] = Field(description="Benchmark that the run reads.")
    source: str | None = Field(
        None, description="Folder of synthetic class folders (data = folder), or of images and masks (folder-scenes)."
    )
    sources: dict[str, int] | None = Field(
        None, description="Several such folders in place of source: how often a pass sees each one's images (folder)."
    )
    source_list: str | None = Field(
        None, description="Which GTA5 images train: a list of names, or the authors' .mat; None: all (data = gta5)."
    )
    class_list: str | None = Field(
        None, description="File of classes and the values of masks; None: that of the source (data = folder-scenes)."
    )
    target: str | None = Field(None, description="Folder of real images, as the source, only reported on.")
    rendering: Rendering = Field(Rendering(), strict=False, description="How the images of data = mini are composed.")
    synthetic: Synthetic | None = Field(None, strict=False, description="What source and validation keep; None: all.")
    mirror: bool | None = Field(
        None, description="Whether answers average an image and its mirror image; None: as the benchmark says."
    )
    size: int = Field(224, ge=32, description="Height and width of the network's input in pixels.")
    backbone: str = Field("torchvision:resnet101", description="LIBRARY:NAME, timm or torchvision.")
    weights: str = Field(
        "pretrained",
        description="pretrained (the library's ImageNet weights), lite0 to lite2, random, or a state-dict file.",
    )
    head_width: int = Field(512, ge=1, description="Hidden units of the task head.")
    steps: int | None = Field(None, ge=0, description="Optimiser steps (0: evaluate only); give this or epochs.")
    epochs: int | None = Field(None, ge=1, description="Passes over the source set; give this or steps.")
    batch: int = Field(32, ge=1, description="Images per step, over all devices together.")
    lr: float = Field(1e-4, gt=0, description="Peak rate of the task head.")
    backbone_factor: float = Field(0.1, ge=0, description="Rate of every backbone group, as a share of lr.")
    guidance: float = Field(0.0, ge=0, description="λ, the weight of the proxy guidance; 0 is plain training.")
    teacher: Literal["fp16"] | None = Field(
        None, description="Precision in which the ImageNet network's kept answers to images are held; None: full."
    )
    weigh: Literal["gradients", "policy"] | None = Field(
        None, description="Who sets λ anew, up to guidance: the balance of gradients, or the control; None: nobody."
    )
    regulariser: Regulariser | None = Field(None, strict=False, description="A penalty beside or instead of it.")
    chunks: int | None = Field(None, ge=1, description="Pieces a side that dense guidance cuts a map into; None: 1.")
    cap: float | None = Field(None, gt=0, description="Most that λ · KL may be in segmentation; None: no limit.")
    dense_head: Literal["deeplab-v3", "deeplab-v2"] | None = Field(
        None, description="Task head of a ResNet in segmentation; None: deeplab-v3. Other backbones have one alone."
    )
    crop: int | None = Field(None, ge=32, description="Side of random crops in segmentation; None: whole images.")
    warmup: int = Field(100, ge=1, description="Steps of quadratic warm-up.")
    control: Control | None = Field(None, strict=False, description="A policy in place of the hand-tuned schedule.")
    augment: Augment | None = Field(None, strict=False, description="Changes of the training images; None: none.")
    head_first: float | None = Field(
        None, gt=0, lt=1, description="Share of the steps that train the head alone; None: none (hand-tuned rates)."
    )
    project: Project | None = Field(None, strict=False, description="A learned bound on every weight; None: none.")
    average: Average | None = Field(None, strict=False, description="An average over the iterates; None: the last.")
    interpolate: float | None = Field(
        None, ge=0, le=1, description="How far from ImageNet's to the trained backbone weights; None: all the way."
    )
    adapt: Adaptation | None = Field(None, strict=False, description="Self-training after this training.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay of SGD.")
    sgd: Literal["reference", "torch"] = Field(
        "reference", description="Whether the rate enters the momentum buffer (reference) or not."
    )
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision of accelerate.")
    compile: Literal[True] | None = Field(None, description="Steps by torch.compile; None: without it.")
    fold: Literal[True] | None = Field(
        None, description="BatchNorms of the backbone folded into its convolutions (asg.folding); None: not."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves the choice to torch (not bit-exact).")
    workers: int = Field(0, ge=0, description="Processes that decode images (data that is not cached).")
    evaluations: int = Field(10, ge=1, description="Evaluations, evenly spaced; the last is the result.")
    signals: bool | None = Field(
        None,
        description="Whether the last evaluation also measures what synthetic images say of guidance (asg.signals).",
    )
    seed: int = Field(0, ge=0, description="Seed of the task head and of the order of the images.")

    @model_validator(mode="after")
    def _length(self) -> RunConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if self.head_first and self.control:
            raise ValueError("head_first belongs to the hand-tuned rates: leave control or head_first out")
        if self.weigh and not self.guidance:
            raise ValueError("weigh scales guidance, which is 0: give guidance or leave weigh out")
        if self.weigh == "policy" and (self.control is None or self.control.kind == "auto-rgn"):
            raise ValueError("weigh = policy needs a control that decides: learned, random, random once or fixed")
        if self.data == "folder" and bool(self.source) == bool(self.sources):
            raise ValueError(
                "data = folder needs source, a folder with one sub-folder of images per class, or sources, several"
            )
        if self.sources and (self.data != "folder" or min(self.sources.values()) < 1):
            raise ValueError("sources are of data = folder only, each with a whole number from 1 on")
        if self.sources and self.epochs and max(self.sources.values()) > 1:
            raise ValueError("epochs count every image once, and sources say more: give steps")
        if self.data == "folder-scenes" and not self.source:
            raise ValueError("data = folder-scenes needs source, a folder with images/ and masks/")
        if self.data != "folder-scenes" and self.class_list:
            raise ValueError("class_list says what the values of masks mean, of data = folder-scenes only")
        if self.data != "gta5" and self.source_list:
            raise ValueError("source_list is a list of GTA5 images, of data = gta5 only")
        if self.data == "gta5" and self.adapt and self.adapt.half:
            raise ValueError("data = gta5 adapts to Cityscapes train and reports on val: leave adapt.half out")
        return self

    def to_json(self) -> str:
        """Every field, keys sorted: equal configurations give equal strings."""
        return json.dumps(self.model_dump(), sort_keys=True)

    def identity(self) -> str:
        """Hash (12 hex digits) of every setting but the seed: runs that share it are repetitions.

        Names of files and folders do not count, since what they hold is identified by itself, nor does the number of
        loader workers. A field that is None does not count either, so that an optional field can be added and nothing
        is outdated.
        """
        given = self.model_dump(exclude={"seed", *PLACES, "control", "adapt"}, exclude_none=True)
        if self.weights not in NAMED_WEIGHTS:
            given["weights"] = "a file"
        if self.control:
            given["control"] = self.control.model_dump(exclude={"policy"}, exclude_none=True)
        if self.adapt:
            given["adapt"] = self.adapt.model_dump(exclude={"images"}, exclude_none=True)
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]


class MetaConfig(BaseModel):
    """How a policy is trained (departure 15); the student's own settings are ``student``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    student: RunConfig = Field(strict=False, description="One episode: a run of this length on the source.")
    reward: Literal["loss", "improvement", "held-out", "retention", "looks"] = Field(
        "loss", description="What is rewarded."
    )
    episodes: int = Field(100, ge=1, description="Student trainings.")
    gamma: float = Field(0.0, ge=0, le=1, description="Discount of later rewards; 0 as in the published command.")
    decisions: int = Field(5, ge=1, description="Decisions of one update.")
    parallel: int = Field(
        1, ge=1, description="Episodes side by side, over which an update averages (Ray; departure 43)."
    )
    lr: float = Field(7e-4, gt=0, description="Meta rate of SGD.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    baseline: bool = Field(False, description="Subtract a moving average of the returns, and divide by their spread.")
    entropy: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    loss: Literal["mean of products", "product of means"] = Field(
        "mean of products", description="How returns and log-probabilities of an update meet (departure 30)."
    )
    groups: int = Field(7, ge=1, description="Rates that the policy sets.")
    actions: int = Field(11, ge=0, description="Ratios from 0 to 1; 0: a continuous ratio.")
    statistics: tuple[str, ...] = Field(STATISTICS, strict=False, description="What the policy sees.")
    normalised: bool = Field(False, description="Whether it sees them free of sizes.")
    seed: int = Field(0, ge=0, description="Seed of the policy's start, of its draws and of the episodes.")


def make_config(base: dict, *overrides: dict) -> RunConfig:
    """``base`` updated by each of ``overrides`` in turn, checked.

    Raises :class:`AsgError` that names each wrong field. A new ``steps`` replaces ``epochs`` and
    the other way round, since only one of them may stand.
    """
    merged = dict(base)
    for override in overrides:
        for mine, other in (("steps", "epochs"), ("epochs", "steps")):
            if override.get(mine) is not None:
                merged.pop(other, None)
        merged.update(override)
    return validated(RunConfig, merged)


def validated(kind: type[Model], fields: Mapping) -> Model:
    """``kind(**fields)``; what is wrong with it is one sentence that names each wrong field."""
    try:
        return kind(**fields)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the configuration'}: {e['msg']} (got {e['input']!r})"
            if e["loc"]
            else e["msg"]
            for e in error.errors()
        )
        raise AsgError(f"These settings are not valid — {faults}. Fields: {', '.join(kind.model_fields)}.") from None
