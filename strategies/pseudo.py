"""What the semi-supervised strategies for images with one class share: scores, views, the quality of pseudo-labels."""

import torch
from torch import Tensor, nn

from .box_samples import BoxSamples
from .contract import Metrics, Samples, Site, UnsuitableError


def class_samples(samples: Samples, strategy: str) -> Samples:
    """Give the samples as images with one class each. Raises UnsuitableError for images with boxes."""
    if isinstance(samples, BoxSamples):
        raise UnsuitableError(
            f"{strategy} needs images with one class each, and these have boxes; see fedsto for those"
        )
    return samples


@torch.no_grad()
def scores_of(site: Site, samples: Samples, model: nn.Module | None = None) -> Tensor:
    """Give a model's scores (logits) [n, classes] for all the samples as they are, in eval mode; by default the site's.

    What it scores is not augmented, so it need be done only once for a model that does not change.
    """
    model = site.model if model is None else model
    model.eval()
    places = torch.arange(len(samples), device=site.device)
    found = [model(samples.x(index)) for index in torch.split(places, site.batch_size)]
    return torch.cat(found) if found else torch.zeros(0, site.classes, device=site.device)


def pair_of_views(site: Site, samples: Samples, index: Tensor) -> tuple[Tensor, Tensor]:
    """Give weak and strong views of the samples at `index` [b], normalised, each [b, c, h, w]."""
    views, images = site.views(samples), samples.images(index)
    weak = samples.normalize(views.weak(images, site.generator))
    return weak, samples.normalize(views.strong(images, site.generator))


def divergence(target: Tensor, logs: Tensor) -> Tensor:
    """Give KL(target || p) [...] of probabilities [..., classes] and of the logarithms of p, of the same shape."""
    return (torch.xlogy(target, target) - target * logs).sum(-1)


class LabelQuality:
    """Counts what became of a client's unlabelled samples, against the truth; for the records alone.

    truth: int64 [n], the class of each sample.
    """

    def __init__(self, truth: Tensor) -> None:
        self._truth = truth
        self._seen = 0
        zeros = torch.zeros(int(truth.max()) + 1 if len(truth) else 0, dtype=torch.int64, device=truth.device)
        self._accepted, self._right = zeros, zeros.clone()  # by true class
        self._local: tuple[int, int] | None = None  # accepted samples that the local model labelled, and the right ones

    def add(self, index: Tensor, labels: Tensor, accepted: Tensor, local: Tensor | None = None) -> None:
        """Note the pseudo-labels [b] of the samples at `index` [b]: which were accepted, which the local model gave."""
        truth = self._truth[index]
        right = accepted & (labels == truth)
        self._seen += len(index)
        self._accepted += torch.bincount(truth[accepted], minlength=len(self._accepted))
        self._right += torch.bincount(truth[right], minlength=len(self._right))
        if local is not None:
            before, right_before = self._local or (0, 0)
            self._local = before + int((accepted & local).sum()), right_before + int((right & local).sum())

    def metrics(self) -> Metrics:
        """Give shares in [0, 1]: `pseudo_accepted`, and what of the accepted samples is right.

        `pseudo_accuracy` counts each sample once; `pseudo_class_accuracy` each class of which a sample was accepted: it
        is low where rare classes are labelled as frequent ones. With a local and a global model: `pseudo_local`, the
        share that the local one labelled, `pseudo_local_accuracy` and `pseudo_global_accuracy`.
        """
        if not self._seen:
            return {}
        accepted, right = int(self._accepted.sum()), int(self._right.sum())
        found = {"pseudo_accepted": accepted / self._seen}
        if accepted:
            held = self._accepted > 0
            found["pseudo_accuracy"] = right / accepted
            found["pseudo_class_accuracy"] = float((self._right[held].double() / self._accepted[held]).mean())
            if self._local is not None:
                local, local_right = self._local
                found["pseudo_local"] = local / accepted
                if local:
                    found["pseudo_local_accuracy"] = local_right / local
                if accepted > local:
                    found["pseudo_global_accuracy"] = (right - local_right) / (accepted - local)
        return found
