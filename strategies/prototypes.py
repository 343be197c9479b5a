"""What the strategies share in which nothing but class means travels: personal models, features, prototypes.

A prototype is the mean feature [d] of a class. Each client keeps its whole model on disk, so models may differ as long
as all have equally many features (option `features` of the classifiers).
"""

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..models import Classifier
from .contract import (
    Arrays,
    Ask,
    Batch,
    ClientHalf,
    ExactSum,
    Metrics,
    RefusedUpdateError,
    Samples,
    ServerHalf,
    Settings,
    Site,
    UnsuitableError,
    Update,
)
from .exact import checked_size
from .personal import keep, kept
from .pseudo import class_samples

MODEL, PROTOTYPES, CLASSES, KNOWN = "model/", "prototypes", "classes", "known"

S = TypeVar("S", bound=Settings)


class ClassMeans:
    """Means of vectors by class, added up batch by batch."""

    def __init__(self, classes: int, width: int, device: torch.device) -> None:
        self._sums = torch.zeros(classes, width, dtype=torch.float64, device=device)
        self._counts = torch.zeros(classes, dtype=torch.float64, device=device)

    def add(self, values: Tensor, labels: Tensor) -> None:
        """Add vectors [b, width] of classes [b]."""
        self._sums.index_add_(0, labels, values.detach().double())
        self._counts += torch.bincount(labels, minlength=len(self._counts))

    def arrays(self) -> Arrays:
        """Give `prototypes`, float32 [k, width], and `classes`, int16 [k]: of the k classes that were seen."""
        seen = (self._counts > 0).nonzero()[:, 0]
        means = self._sums[seen] / self._counts[seen, None]
        return {PROTOTYPES: means.float().cpu().numpy(), CLASSES: seen.to(torch.int16).cpu().numpy()}


def classifier(model: nn.Module, strategy: str) -> Classifier:
    """Give the model as a classifier with features and a head. Raises UnsuitableError for any other."""
    if not isinstance(model, Classifier):
        raise UnsuitableError(
            f"{strategy} needs a model that tells features from head: one of fedbox, such as cnn, or of your own as "
            f"fedbox.models.Classifier(backbone, feature_dim, classes); got {type(model).__name__}"
        )
    return model


def check_features(client: str, given: int, wanted: int) -> None:
    """Raise ValueError, naming the client, unless its model gives as many features as the prototypes have."""
    if given != wanted:
        raise ValueError(
            f"{client}: its model gives {given} features, the global prototypes have {wanted}; "
            "give all networks of model.family the same option features"
        )


def distances(features: Tensor, points: Tensor) -> Tensor:
    """Give Euclidean distances [b, k] of features [b, d] to points [k, d], with a finite gradient where they meet."""
    squared = (features[:, None] - points[None]).square().sum(2)
    return squared.clamp_min(1e-12).sqrt()


def nearest_other(points: Tensor) -> Tensor:
    """Give the distance [k] of each of two or more points [k, d] to the nearest other one."""
    return distances(points, points).fill_diagonal_(float("inf")).min(1).values


def contrastive(features: Tensor, labels: Tensor, anchors: Tensor, margin: Tensor) -> Tensor:
    """Give the margin-enhanced contrastive loss of features [b, d] of classes [b], a scalar."""
    apart = distances(features, anchors)
    return functional.cross_entropy(-(apart + margin * functional.one_hot(labels, len(anchors))), labels)


class PrototypeClient(ClientHalf[S]):
    """A model of its own, kept on disk; what it shares is a mean for each class."""

    any_model = True
    personal = True
    needs = "classes"
    strategy: ClassVar[str] = "this strategy"

    def prepare(self, site: Site) -> None:
        """Load the client's own model, or keep the initial one."""
        site.load(kept(site, MODEL))

    def train(self, site: Site) -> Update:
        """Train on the labelled samples; keep the model; give back the class means of what `told` gives."""
        class_samples(site.labelled, self.strategy)
        model = classifier(site.model, self.strategy)
        means = ClassMeans(site.classes, self.width(site, model), site.device)
        terms = self.terms(site, model)

        def loss(batch: Batch) -> Tensor:
            features = model.features(batch.x)
            scores = model.head(features)
            means.add(self.told(features, scores), batch.y)
            total: Tensor = terms(features, scores, batch.y)
            return total

        fit = site.fit(loss)
        keep(site, MODEL, site.flat)
        found = means.arrays()
        self.remember(site, found)
        return Update({}, fit.examples, fit.metrics, found)

    def width(self, site: Site, model: Classifier) -> int:
        """Give the length of what is averaged by class: the features."""
        return model.feature_dim

    def told(self, features: Tensor, scores: Tensor) -> Tensor:
        """Give what is averaged by class: the features."""
        return features

    def terms(self, site: Site, model: Classifier) -> Any:
        """Give the loss as a function of features [b, d], scores [b, classes] and labels [b]."""
        raise NotImplementedError

    def remember(self, site: Site, found: Arrays) -> None:
        """Keep more than the model, in `site.state`."""

    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        """Measure the classifier, and the nearest global prototype where there is one (`prototype_accuracy`)."""
        metrics = site.evaluate(samples)
        known = site.received.get(KNOWN)
        if known is None or not known.any() or not metrics:
            return metrics
        points = torch.from_numpy(np.array(site.received[PROTOTYPES])).to(site.device)
        check_features(site.name, classifier(site.model, self.strategy).feature_dim, points.shape[1])
        return metrics | {"prototype_accuracy": nearest(site, samples, points, torch.from_numpy(np.array(known)))}


@torch.no_grad()
def nearest(site: Site, samples: Samples, points: Tensor, known: Tensor) -> float:
    """Give the share of samples whose nearest known point [classes, d] is that of their class."""
    model, right = classifier(site.model, "nearest"), 0
    model.eval()
    places = torch.arange(len(samples), device=site.device)
    for index in torch.split(places, site.batch_size):
        apart = distances(model.features(samples.x(index)), points)
        apart[:, ~known.to(apart.device)] = float("inf")
        right += int((apart.argmin(1) == samples.truth[index]).sum())
    return right / len(samples)


class PrototypeServer(ServerHalf[S]):
    """Averages each class over the clients that have it, every client counting the same."""

    strategy: ClassVar[str] = "this strategy"

    def __init__(self, settings: S, site: Site) -> None:
        super().__init__(settings, site)
        classifier(site.model, self.strategy)
        self.weights = {}
        width = self.width(site)
        self.prototypes: NDArray[np.float32] = np.zeros((site.classes, width), np.float32)
        self.known: NDArray[np.bool_] = np.zeros(site.classes, np.bool_)

    def width(self, site: Site) -> int:
        """Give the length of a class's mean."""
        return classifier(site.model, self.strategy).feature_dim

    def ask(self, round_: int) -> Ask | None:
        """Send the global prototypes, and which of them are known."""
        return Ask({PROTOTYPES: self.prototypes, KNOWN: self.known})

    def ask_evaluate(self, round_: int) -> Ask:
        """Send what clients measure with."""
        return Ask({PROTOTYPES: self.prototypes, KNOWN: self.known}, phase="evaluate")

    def begin(self) -> Any:
        """Give a sum for each class."""
        return {}

    def add(self, total: Any, client: str, update: Update) -> None:
        """Add a client's class means. Raises RefusedUpdateError for what is none, SumRangeError for too large ones."""
        for label, mean in self.checked(client, update):
            total.setdefault(label, ExactSum()).add({"mean": mean}, 1)

    def checked(self, client: str, update: Update) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Give (class, mean [d]) of each class that the client has. Raises RefusedUpdateError or SumRangeError."""
        means, labels = update.extra.get(PROTOTYPES), update.extra.get(CLASSES)
        if update.examples == 0 or means is None or labels is None:
            return
        count, width = self.prototypes.shape
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or means.dtype != np.float32:
            raise RefusedUpdateError(
                f"prototypes of type {means.dtype} for classes of type {labels.dtype} and shape {labels.shape}; "
                "wanted: float32 for whole numbers, one axis"
            )
        if means.shape != (len(labels), width):
            raise RefusedUpdateError(
                f"prototypes of shape {means.shape} for {len(labels)} classes; wanted: {width} features each"
            )
        told = labels.tolist()
        if len(set(told)) < len(told) or not set(told) <= set(range(count)):
            raise RefusedUpdateError(f"prototypes of the classes {told}; wanted: distinct ones of 0..{count - 1}")
        checked_size(PROTOTYPES, means)  # raises for all of its classes before the first of them counts
        yield from zip(told, means, strict=True)

    def finish(self, total: Any, round_: int) -> None:
        """Make the new global prototypes; a class that nobody had keeps its own."""
        self.prototypes, self.known = self.prototypes.copy(), self.known.copy()
        for label, part in total.items():
            self.prototypes[label] = part.mean()["mean"]
            self.known[label] = True

    def landmarks(self) -> Arrays:
        """Give the prototypes that are known, for the report."""
        return {PROTOTYPES: np.where(self.known[:, None], self.prototypes, np.float32(np.nan))}

    def state(self) -> Arrays:
        """Give prototypes, and which are known."""
        return {PROTOTYPES: self.prototypes, KNOWN: self.known}

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""
        self.prototypes = np.asarray(state[PROTOTYPES], np.float32)
        self.known = np.asarray(state[KNOWN], np.bool_)
