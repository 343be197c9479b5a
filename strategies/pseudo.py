"""What the semi-supervised strategies for images with one class share: scores, views, the quality of pseudo-labels."""

import torch
from torch import Tensor, nn

from .contract import Metrics, Samples, Site


def class_samples(samples: Samples, strategy: str) -> Samples:
    """Give the samples as images with one class each. Raises TypeError for images with boxes."""
    if type(samples) is not Samples:
        raise TypeError(f"{strategy} needs images with one class each, and these have boxes; see fedsto for those")
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
    """Counts what became of a client's unlabelled samples, against the truth; for the records alone."""

    def __init__(self, truth: Tensor) -> None:
        self._truth = truth
        self._seen = self._accepted = self._right = 0
        self._local: int | None = None

    def add(self, index: Tensor, labels: Tensor, accepted: Tensor, local: Tensor | None = None) -> None:
        """Note the pseudo-labels [b] of the samples at `index` [b]: which were accepted, which the local model gave."""
        self._seen += len(index)
        self._accepted += int(accepted.sum())
        self._right += int((accepted & (labels == self._truth[index])).sum())
        if local is not None:
            self._local = (self._local or 0) + int((accepted & local).sum())

    def metrics(self) -> Metrics:
        """Give `pseudo_accepted`, and of the accepted `pseudo_accuracy` and `pseudo_local`, all shares in [0, 1]."""
        if not self._seen:
            return {}
        found = {"pseudo_accepted": self._accepted / self._seen}
        if self._accepted:
            found["pseudo_accuracy"] = self._right / self._accepted
            if self._local is not None:
                found["pseudo_local"] = self._local / self._accepted
        return found
