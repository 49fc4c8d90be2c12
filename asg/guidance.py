"""Proxy guidance for anyone's own training loop: one term more in the loss."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from asg import AsgError
from asg.dense_losses import cut
from asg.losses import proxy_guidance

TWICE = (
    "The network's last pass was not of the tensor that guidance is given, so it is run once more: call the network "
    "and then the guidance with the same tensor."
)


class Tap:
    """What the last forward pass of a network took in, and what it gave its classifier; read once.

    A copy of a network, or a file of it, has a tap that has seen nothing: the tensors belong to the pass.
    """

    def __init__(self) -> None:
        self.images: Tensor | None = None
        self.features: Tensor | None = None

    def __deepcopy__(self, memo: dict) -> Tap:
        return Tap()

    def __reduce__(self) -> tuple:
        return Tap, ()

    def begin(self, network: nn.Module, given: tuple, named: dict) -> None:
        """Before the network's pass: remember the images, its first tensor."""
        self.images = next((value for value in (*given, *named.values()) if isinstance(value, Tensor)), None)
        self.features = None

    def enter(self, classifier: nn.Module, given: tuple) -> None:
        """Before the classifier: remember what it is given."""
        self.features = given[0]

    def leave(self, network: nn.Module, given: tuple, output: object) -> None:
        """After a network without classifier: its output are the features; of a mapping the one named ``out``."""
        self.features = output["out"] if isinstance(output, dict) else output

    def take(self, images: Tensor) -> Tensor | None:
        """The features of a pass of these very images, if that was the last one."""
        features = self.features if self.images is images else None
        self.images = self.features = None
        return features


def last_linear(network: nn.Module) -> str | None:
    """The name of the linear layer that a network ends in, as ImageNet classifiers do; None where it ends otherwise."""
    own = [name for name, module in network.named_modules() if next(module.parameters(recurse=False), None) is not None]
    return own[-1] if own and isinstance(network.get_submodule(own[-1]), nn.Linear) else None


def classifier_name(network: nn.Module) -> str:
    """:func:`last_linear` of an ImageNet classifier of timm or torchvision; :class:`AsgError` where there is none."""
    if (name := last_linear(network)) is None:
        raise AsgError(
            f"{type(network).__name__} ends in no linear classifier: give its ImageNet classifier as `head`, or "
            "another network."
        )
    return name


class ProxyGuidance(nn.Module):
    r"""λ · KL(ImageNet network ‖ network in training) on the images of a batch, to be added to any loss.

    .. math:: \frac{\lambda}{N} \sum_i \mathrm{KL}\big(h(f_0(x_i)) \,\|\, h(f(x_i))\big)

    with the frozen ImageNet classifier :math:`h` and backbone :math:`f_0`, and the backbone :math:`f` in training
    (paper, section 3.1). Made while ``network`` still has its ImageNet weights; the network itself is not changed, and
    may get another classifier, a wrapper (DDP, compile) and any optimiser afterwards::

        network = timm.create_model("resnet50", pretrained=True)
        guide = ProxyGuidance(network, weight=0.1)
        network.reset_classifier(12)
        ...
        loss = cross_entropy(network(images), labels) + guide(images)

    The features are those of the network's last forward pass, if that was of these ``images`` (the same tensor);
    otherwise the network is run on them once more. A network without classifier is given with its ``head``, which is
    then the ImageNet classifier that maps its features ``(N, D)``, or the mean of its maps ``(N, D, h, w)`` over each
    of ``chunks × chunks`` pieces (the paper's dense form), to logits ``(N, K)``.

    ``weight``: λ, to be set anew at any time. The state dict holds the ImageNet network, so that a training that is
    taken up again is guided by the same one.
    """

    def __init__(self, network: nn.Module, weight: float = 0.1, head: nn.Module | None = None, chunks: int = 1) -> None:
        super().__init__()
        self.weight, self.chunks = weight, chunks
        self.name = None if head is not None else classifier_name(network)
        self.teacher = copy.deepcopy(network).requires_grad_(False)
        self.head = copy.deepcopy(head) if head is not None else self.teacher.get_submodule(self.name)
        self.head.requires_grad_(False)
        if head is None:  # what is left of the teacher gives features
            self._place(self.teacher, nn.Identity())
        self.answers: Tensor | None = None
        self.warned = False
        self._hook = None
        self.tap, self._network, self._tapped = Tap(), (network,), (None,)  # in tuples: no parts of this module
        network.register_forward_pre_hook(self.tap.begin, with_kwargs=True)
        if head is not None:
            network.register_forward_hook(self.tap.leave)
        self.attach()
        self.eval()

    def _place(self, network: nn.Module, classifier: nn.Module) -> None:
        parent, _, leaf = self.name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, classifier)

    def train(self, mode: bool = True) -> ProxyGuidance:
        """Always eval: the ImageNet network does not change."""
        return super().train(False)

    def attach(self) -> bool:
        """Look at the classifier that the network has now; whether it is another one than before.

        Needed by hand only before ``torch.compile`` of a network whose classifier was replaced after this object was
        made; otherwise the next call does it.
        """
        if self.name is None or (now := self._network[0].get_submodule(self.name)) is self._tapped[0]:
            return False
        if self._hook is not None:  # a classifier that was replaced may still be called, on other features
            self._hook.remove()
        self._hook, self._tapped = now.register_forward_pre_hook(self.tap.enter), (now,)
        return True

    def remember(self, batches: Iterable[Tensor]) -> None:
        """Compute the ImageNet network's answers once, for images that no augmentation changes.

        ``batches``: all training images in the order of their numbers; afterwards ``guide(images, indices)`` looks up.
        Not part of the state dict.
        """
        with torch.no_grad():
            answers = [self.old(images) for images in batches]
        if not answers:
            raise AsgError("There are no images to remember: give the training images, batch by batch.")
        self.answers = torch.cat(answers)  # (images · chunks², K)

    def old(self, images: Tensor) -> Tensor:
        """Log-softmax ``(N · chunks², K)`` of the ImageNet network."""
        if next(self.head.parameters()).device != images.device:  # it follows the network
            self.to(images.device)
        with torch.no_grad():
            output = self.teacher(images)
            return self.logits(output["out"] if isinstance(output, dict) else output).log_softmax(1)

    def logits(self, features: Tensor) -> Tensor:
        """ImageNet logits ``(N · chunks², K)`` of features ``(N, D)``, or of maps ``(N, D, h, w)`` piece by piece."""
        if features.dim() == 4:
            features = cut(features, self.chunks, 1)
        return self.head(features).float()

    def forward(self, images: Tensor, indices: Tensor | None = None) -> Tensor:
        """λ · :meth:`kl` of a batch, a scalar."""
        return self.weight * self.kl(images, indices)

    def kl(self, images: Tensor, indices: Tensor | None = None) -> Tensor:
        """KL of a batch, in nats, without its weight; what a policy is told.

        ``indices`` ``(N,)``: numbers of the images in what :meth:`remember` saw.
        """
        ran = self.tap.images is not None
        features = self.tap.take(images)
        if features is None:
            if not self.attach() and ran and not self.warned:
                self.warned = True
                warnings.warn(TWICE, stacklevel=2)
            self._network[0](images)
            features = self.tap.take(images)
        return proxy_guidance(self.logits(features), self.looked_up(images, indices))

    def looked_up(self, images: Tensor, indices: Tensor | None) -> Tensor:
        """The ImageNet network's answers: remembered where ``indices`` are given, else computed."""
        if indices is None:
            return self.old(images)
        if self.answers is None:
            raise AsgError("Nothing is remembered yet: call guide.remember(batches) first, or leave the indices out.")
        if self.answers.device != images.device:
            self.answers = self.answers.to(images.device)
        rows = self.answers.view(-1, self.chunks**2, self.answers.shape[1])  # (images, chunks², K)
        return rows[indices].flatten(0, 1)
