"""FedPAC on pseudo-labels: feature alignment and a classifier for each client (Xu et al. 2023, arXiv 2306.11867).

The paper's method is for images with one class; here a sample is a point of the detector that answers for a reliable
pseudo-label, its feature f is what the last convolution of the class branch (`head.classes`, the classifier) gets, and
its class that of the pseudo-label. In a round client i

1. takes the statistics of its features under the global model (after a pass over its own labels, if it holds any):
   means m_c, shares p_c, and V (section 3.2);
2. trains the head alone for half of the round's steps, on pseudo-labels of a local moving average;
3. trains backbone and neck for the other half, with + align x mean ||f - prototype of its class||^2 / dimensions.

The server averages everything but the classifier, and the prototypes by the number of points. Client i gets the
classifier sum_j a_j w_j with a on the simplex, minimising a' (diag(V) + D_i) a, where D_i[j, k] is the sum over classes
of <p_c m_c of i - that of j, p_c m_c of i - that of k> (section 3.3). The global model's classifier is the mean.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ..models.assign import assign
from ..models.detections import Predictions
from ..models.detector_parts import STRIDES
from .box_teacher import BoxTeacher, box_samples
from .by_client import divided, joined
from .contract import Arrays, Ask, Batch, ExactSum, Plugin, Site, UnsuitableError, Update
from .exact import checked_size
from .semi_boxes import SemiBoxClient, SemiBoxServer, SemiBoxSettings
from .simplex import least_quadratic
from .validate import check_extra

_CLASSIFIER = "head.classes."
_OWN, _PROTOTYPES = "own/", "prototypes"


class FedPACSettings(SemiBoxSettings):
    """Settings of fedpac-ema."""

    align: float = Field(1.0, ge=0, description="weight of the distance between features and global prototypes")


class FedPACClient(SemiBoxClient[FedPACSettings]):
    """Head first, then the body towards the global prototypes."""

    strategy = "fedpac-ema"

    def prepare(self, site: Site) -> None:
        """Load the global model, and over it the classifier that the server combined for this client."""
        super().prepare(site)
        own = {name.removeprefix(_OWN): value for name, value in site.received.items() if name.startswith(_OWN)}
        site.load(own)

    def train(self, site: Site) -> Update:
        """Train in the two steps; give back weights, prototypes and statistics."""
        with closing(_Features(site)) as features:  # also where it fails: the next client trains on the same network
            return self._train(site, features)

    def _train(self, site: Site, features: "_Features") -> Update:
        samples = box_samples(site.unlabelled, self.strategy)
        steps = site.steps(len(samples))
        labelled, teacher = self.supervise(site, samples, lambda batch: self.loss(site, batch))
        told = features.statistics(teacher)
        goal = torch.from_numpy(np.array(site.received[_PROTOTYPES])).to(site.device)

        def aligned(batch: Batch) -> Tensor:
            images, pseudo = teacher.labelled(batch)
            predictions = site.model(images)
            return teacher.loss_of(predictions, pseudo) + self.settings.align * features.distance(
                predictions, teacher.reliable(pseudo), goal
            )

        first = site.fit(
            teacher.loss, samples=samples, view="none", steps=steps // 2, parts=("head",), after_step=teacher.follow
        )
        body = ("backbone", "neck")
        fit = site.fit(
            aligned, samples=samples, view="none", steps=steps - steps // 2, parts=body, after_step=teacher.follow
        )
        self.close(site, teacher)
        metrics = {**labelled.metrics, **first.metrics, **fit.metrics, **teacher.quality.metrics()}
        return Update(site.weights(), labelled.examples + fit.examples, metrics, told)


class _Features:
    """What goes into the classifier, caught on its way; of the points that answer for a box."""

    def __init__(self, site: Site) -> None:
        head: Any = site.model.get_submodule("head")
        if not hasattr(head, "classes"):
            raise TypeError("fedpac-ema needs the compact detector's classifier head.classes: set model.name=detector")
        self.site, self._caught = site, list[Tensor]()
        self._hook = head.classes.register_forward_pre_hook(self._catch)

    def _catch(self, _module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._caught = [*self._caught[1 - len(STRIDES) :], given[0]]  # one for each level of the last forward

    def close(self) -> None:
        """Let go of the model."""
        self._hook.remove()

    def _of(self, predictions: Predictions, targets: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Give the features [n, d] and classes [n] of the points that answer for the targets, of the last forward."""
        maps = torch.cat([each.permute(0, 2, 3, 1).flatten(1, 2) for each in self._caught], dim=1)
        owner = assign(predictions, targets)
        image, point = (owner >= 0).nonzero(as_tuple=True)
        first = np.concatenate(([0], np.cumsum([len(labels) for _, labels in targets])))
        labels = torch.cat([labels for _, labels in targets])
        rows = owner[image, point] + torch.from_numpy(first).to(owner.device)[image]
        return maps[image, point], labels[rows]

    def distance(self, predictions: Predictions, targets: list[tuple[Tensor, Tensor]], goal: Tensor) -> Tensor:
        """Give the mean squared distance to the prototypes [classes, d]; one of all zeros is not known yet."""
        features, labels = self._of(predictions, targets)
        known = goal.any(dim=1)[labels]
        if not bool(known.any()):
            return features.sum() * 0
        return (features[known] - goal[labels[known]]).square().mean()

    @torch.no_grad()
    def statistics(self, teacher: BoxTeacher) -> Arrays:
        """Give `sums` and `counts` of the features by class, and V, under the model as it is."""
        site, samples = self.site, teacher.samples
        width = _width(site)
        sums = torch.zeros(site.classes, width, dtype=torch.float64, device=site.device)
        counts = torch.zeros(site.classes, dtype=torch.float64, device=site.device)
        squares = torch.zeros_like(counts)
        site.model.eval()
        # Split, no samples are one empty batch.
        batches = torch.split(torch.arange(len(samples), device=site.device), site.batch_size) if len(samples) else ()
        for index in batches:
            images = samples.x(index)
            targets = teacher.reliable(teacher.detect(images))
            features, labels = self._of(site.model(images), targets)
            sums.index_add_(0, labels, features.double())
            counts += torch.bincount(labels, minlength=site.classes)
            squares.index_add_(0, labels, features.double().square().sum(1))
        return _statistics(sums.cpu().numpy(), counts.cpu().numpy(), squares.cpu().numpy())


def _width(site: Site) -> int:
    """Give the number of features that go into the classifier."""
    return int(dict(site.model.named_parameters())[_CLASSIFIER + "weight"].shape[1])


def _statistics(sums: NDArray[Any], counts: NDArray[Any], squares: NDArray[Any]) -> Arrays:
    """Give what the server needs: sums [classes, d] and counts [classes] of the features, V = spread / points."""
    total = max(float(counts.sum()), 1.0)
    share, held = counts / total, np.maximum(counts, 1)
    means = sums / held[:, None]
    spread = float((share * squares / held).sum() - (share**2 * (means**2).sum(1)).sum())
    return {"sums": sums, "counts": counts, "v": np.array([spread / total])}


class FedPACServer(SemiBoxServer[FedPACSettings]):
    """Keeps the prototypes and the clients' classifiers."""

    strategy = "fedpac-ema"

    def __init__(self, settings: FedPACSettings, site: Site) -> None:
        super().__init__(settings, site)
        weight = self.weights.get(_CLASSIFIER + "weight")
        if weight is None:
            raise UnsuitableError("fedpac-ema needs the compact detector, model.name=detector")
        self.prototypes: NDArray[Any] = np.zeros(weight.shape[:2], np.float32)
        self.heads: dict[str, Arrays] = {}

    def ask(self, round_: int) -> Ask | None:
        """Send the prototypes along."""
        ask = super().ask(round_)
        return None if ask is None else Ask({**ask.arrays, _PROTOTYPES: self.prototypes}, ask.phase)

    def ask_client(self, round_: int, client: str) -> Mapping[str, NDArray[Any]]:
        """Give the classifier that was combined for the client, once there is one."""
        return {_OWN + name: value for name, value in self.heads.get(client, {}).items()}

    def begin(self) -> Any:
        """Give the sum of weights, and what each client told."""
        return ExactSum(), {}

    def add(self, total: Any, client: str, update: Update) -> None:
        """Add the weights; remember classifier and statistics. Raises SumRangeError for figures out of range."""
        weights, told = total
        if update.examples > 0:
            classes, width = self.prototypes.shape
            wanted = {"sums": ((classes, width), "f"), "counts": ((classes,), "f"), "v": ((1,), "f")}
            check_extra(update, wanted)
            # Numbers whose squares overflow would end the run, not only this client; V is one of squares.
            for name in wanted:
                value = update.extra[name]
                checked_size(name, np.sqrt(np.abs(value)) if name == "v" else value)
            weights.add(update.weights, update.examples)
            heads = {name: value for name, value in update.weights.items() if name.startswith(_CLASSIFIER)}
            told[client] = (heads, dict(update.extra))

    def finish(self, total: Any, round_: int) -> None:
        """Average; make prototypes; combine a classifier for each client that took part."""
        weights, told = total
        super().finish(weights, round_)
        for name in told:  # who has no point that answers for a pseudo-label has no say, and the global classifier
            self.heads.pop(name, None)
        names = sorted(name for name, (_, statistics) in told.items() if statistics["counts"].any())
        if not names:
            return
        counts = np.stack([told[name][1]["counts"] for name in names])
        sums = np.stack([told[name][1]["sums"] for name in names])
        seen = counts.sum(0)
        fresh = sums.sum(0) / np.maximum(seen, 1)[:, None]
        self.prototypes = np.where(seen[:, None] > 0, fresh, self.prototypes).astype(np.float32)
        # p_c m_c: the class means times the classes' shares.
        scaled = sums / np.maximum(counts.sum(1), 1)[:, None, None]
        spread = np.array([float(told[name][1]["v"][0]) for name in names])
        for number, name in enumerate(names):
            apart = (scaled[number] - scaled).reshape(len(names), -1)
            shares = least_quadratic(np.diag(spread) + apart @ apart.T)
            heads = [told[each][0] for each in names]
            self.heads[name] = {
                key: sum((share * head[key] for share, head in zip(shares, heads, strict=True)), 0.0 * value).astype(
                    value.dtype
                )
                for key, value in heads[0].items()
            }

    def state(self) -> Arrays:
        """Give prototypes and classifiers."""
        return {_PROTOTYPES: self.prototypes, **joined("head", self.heads)}

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""
        self.prototypes, self.heads = state[_PROTOTYPES], divided("head", state)


plugin = Plugin(
    FedPACSettings,
    FedPACClient,
    FedPACServer,
    "FedPAC on pseudo-labels: features towards prototypes, a classifier a client (Xu 2023)",
)
