"""FedMatch: weights in two summands, and consistency with helpers (Jeong et al., ICLR 2021, arXiv 2006.12097).

The weights are w = sigma + psi. In a round a client

1. trains sigma alone on its labelled samples, with the cross-entropy;
2. trains psi alone on its unlabelled samples u, where its best class reaches `threshold`, with
       consistency [ 1/H sum over helpers h of KL(p_h(u) || p(u)) + CE(s(strong(u)), y) ]
       + closeness ||sigma - psi||^2 + sparsity ||psi||_1
   y the class that most of the client and its helpers vote for (the client's own where votes are equal).

The server averages sigma and psi, each by samples. The helpers of a client are the `helpers` others whose scores on one
batch of noise are nearest to its own; it gets their psi every `every` rounds, keeps them, and runs them on top of the
sigma that it received.

The paper alternates the two steps batch by batch; here one pass follows the other. Its weights of the terms belong to
a supervised loss times ten; the defaults here are a tenth of them. Running statistics of BatchNorm travel with sigma.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ..models import buffer_names
from .by_client import divided, joined
from .contract import Arrays, Ask, Batch, ClientHalf, ExactSum, Plugin, ServerHalf, Settings, Site, Update
from .pseudo import LabelQuality, class_samples, divergence, scores_of
from .seeds import generator
from .validate import check_extra

_SIGMA, _PSI, _HELPER, _SIGNATURE = "sigma/", "psi/", "helper", "signature"
_NOISE = 32


class FedMatchSettings(Settings):
    """Settings of FedMatch."""

    threshold: float = Field(0.75, ge=0, le=1, description="score from which an unlabelled sample counts")
    helpers: int = Field(2, ge=0, description="other clients' models that a client votes with")
    every: int = Field(10, ge=1, description="rounds after which a client gets new helpers")
    consistency: float = Field(1e-3, ge=0, description="weight of the loss on unlabelled samples")
    closeness: float = Field(1.0, ge=0, description="weight of ||sigma - psi||^2")
    sparsity: float = Field(1e-5, ge=0, description="weight of ||psi||_1")
    psi_share: float = Field(0.2, ge=0, le=1, description="share of the first weights that is psi")


class FedMatchClient(ClientHalf[FedMatchSettings]):
    """sigma on labels, psi on what is agreed on."""

    needs = "classes"
    wants_unlabelled = True

    def train(self, site: Site) -> Update:
        """Train both; give back both, with the scores on noise by which helpers are found."""
        settings, samples = self.settings, class_samples(site.unlabelled, "fedmatch")
        sigma, psi = _load_both(site)
        votes = self._helpers(site, sigma)
        fit = site.fit(lambda batch: self.loss(site, batch))
        sigma = site.flat.flat - psi
        quality = LabelQuality(samples.truth)

        def hold() -> None:
            now = site.flat.flat - sigma
            site.flat.flat_grad.add_(now - sigma, alpha=2 * settings.closeness)
            site.flat.flat_grad.add_(now.sign(), alpha=settings.sparsity)

        second = site.fit(
            lambda batch: settings.consistency * self._agreed(site, batch, votes, quality),
            samples=samples,
            view="none",
            adjust=hold,
        )
        psi = site.flat.flat - sigma
        told = {_SIGNATURE: _on_noise(site)}
        weights = _both(site, sigma, psi)
        metrics = {**fit.metrics, **quality.metrics()}
        if second.metrics:
            metrics["unlabelled_loss"] = second.metrics["train_loss"]
        return Update(weights, fit.examples + second.examples, metrics, told)

    def _helpers(self, site: Site, sigma: Tensor) -> Tensor:
        """Give the helpers' probabilities [h, n, classes] for the unlabelled samples; new helpers are kept."""
        fresh = {name: np.array(value) for name, value in site.received.items() if name.startswith(_HELPER)}
        if fresh:
            site.state = {name: value for name, value in site.state.items() if not name.startswith(_HELPER)} | fresh
        found, buffers = [], site.flat.state(buffer_names(site.model))
        for number in range(self.settings.helpers):
            head = f"{_HELPER}-{number}/"
            own = {name.removeprefix(head): value for name, value in site.state.items() if name.startswith(head)}
            if own:
                spare = site.spare
                spare.load(buffers | own)
                spare.flat.add_(sigma)
                found.append(scores_of(site, site.unlabelled, spare.module).softmax(1))
        return torch.stack(found) if found else torch.zeros(0, len(site.unlabelled), site.classes, device=site.device)

    def _agreed(self, site: Site, batch: Batch, votes: Tensor, quality: LabelQuality) -> Tensor:
        """Give the loss of the batch's samples that the client is sure of; 0 without any."""
        samples = site.unlabelled
        logs: Tensor = site.model(batch.x).log_softmax(1)
        own = logs.detach().exp()
        helpers = votes[:, batch.index]
        labels = vote(own, helpers)
        sure = own.max(1).values >= self.settings.threshold
        quality.add(batch.index, labels, sure)
        if not bool(sure.any()):
            return logs.sum() * 0
        view = site.views(samples).strong
        strong = site.model(samples.viewed(batch.index[sure], view, site.generator).x)
        loss = functional.cross_entropy(strong, labels[sure])
        if len(helpers):
            loss = loss + divergence(helpers[:, sure], logs[sure]).mean()
        return loss


def vote(own: Tensor, helpers: Tensor) -> Tensor:
    """Give the class [b] that most of one client [b, c] and its helpers [h, b, c] prefer; its own among equals."""
    classes = own.shape[1]
    mine = functional.one_hot(own.argmax(1), classes)
    count = 2 * (mine + functional.one_hot(helpers.argmax(2), classes).sum(0)) + mine
    return count.argmax(1)


def _load_both(site: Site) -> tuple[Tensor, Tensor]:
    """Load what the server sent; give sigma and psi as flat vectors. The model holds their sum."""
    received = site.received
    site.load({name.removeprefix(_SIGMA): value for name, value in received.items() if name.startswith(_SIGMA)})
    sigma = site.flat.flat.clone()
    site.flat.flat.zero_()
    site.load({name.removeprefix(_PSI): value for name, value in received.items() if name.startswith(_PSI)})
    psi = site.flat.flat.clone()
    site.flat.flat.add_(sigma)
    return sigma, psi


def _both(site: Site, sigma: Tensor, psi: Tensor) -> Arrays:
    """Give the arrays of both summands; buffers travel with sigma."""
    trained = {name for name, _ in site.model.named_parameters()}
    site.flat.flat.copy_(psi)
    weights = {_PSI + name: value for name, value in site.weights().items() if name in trained}
    site.flat.flat.copy_(sigma)
    weights |= {_SIGMA + name: value for name, value in site.weights().items()}
    site.flat.flat.add_(psi)
    return weights


@torch.no_grad()
def _on_noise(site: Site) -> NDArray[Any]:
    """Give the probabilities [32, classes] for one batch of noise, the same for every client."""
    held = site.unlabelled if len(site.unlabelled) else site.labelled
    if len(held) == 0:
        return np.zeros((_NOISE, site.classes), np.float32)
    shape = held.x(slice(0, 1)).shape[1:]
    noise = torch.randn(_NOISE, *shape, generator=generator(site.seed, "fedmatch"))
    site.model.eval()
    return site.model(noise.to(site.device)).softmax(1).cpu().numpy()  # type: ignore[no-any-return]


class FedMatchServer(ServerHalf[FedMatchSettings]):
    """Averages the summands, remembers each client's psi and finds its helpers."""

    def __init__(self, settings: FedMatchSettings, site: Site) -> None:
        super().__init__(settings, site)
        self._classes = site.classes
        self.parts: Arrays = {_SIGMA + name: value for name, value in self.weights.items()}
        for name, _ in site.model.named_parameters():
            whole: NDArray[Any] = self.weights[name]
            self.parts[_PSI + name] = (whole * settings.psi_share).astype(whole.dtype)
            self.parts[_SIGMA + name] = whole - self.parts[_PSI + name]
        self.clients: dict[str, Arrays] = {}
        self.sent: dict[str, int] = {}  # the round of the helpers that a client keeps
        self._offered: dict[str, int] = {}
        self._training = False

    def ask(self, round_: int) -> Ask:
        """Send both summands."""
        return Ask(self.parts)

    def ask_client(self, round_: int, client: str) -> Mapping[str, NDArray[Any]]:
        """Send the psi of the nearest others, where the client is to train, is known and its helpers are old."""
        mine = self.clients.get(client) if self._training else None  # who is only measured keeps nothing
        if mine is None or round_ - self.sent.get(client, -self.settings.every) < self.settings.every:
            return {}
        noise: NDArray[Any] = mine[_SIGNATURE]
        apart = {
            name: float(np.square(noise - other[_SIGNATURE]).sum())
            for name, other in self.clients.items()
            if name != client
        }
        nearest = sorted(apart, key=lambda name: (apart[name], name))[: self.settings.helpers]
        if nearest:
            self._offered[client] = round_
        return {
            f"{_HELPER}-{number}/{name.removeprefix(_PSI)}": value
            for number, other in enumerate(nearest)
            for name, value in self.clients[other].items()
            if name.startswith(_PSI)
        }

    def expects(self) -> Mapping[str, NDArray[Any]]:
        """Expect both summands."""
        return self.parts

    def begin(self) -> Any:
        """Give the sum, and what each client is remembered by."""
        self._training, self._offered = True, {}
        return ExactSum(), {}

    def add(self, total: Any, client: str, update: Update) -> None:
        """Add both summands; remember psi and the scores on noise."""
        parts, known = total
        if update.examples > 0:
            check_extra(update, {_SIGNATURE: ((_NOISE, self._classes), "f")})
        if client in self._offered:  # a client that failed has kept nothing
            self.sent[client] = self._offered.pop(client)
        if update.examples > 0:
            parts.add(update.weights, update.examples)
            psi = {name: np.array(value) for name, value in update.weights.items() if name.startswith(_PSI)}
            known[client] = psi | {_SIGNATURE: np.array(update.extra[_SIGNATURE])}

    def finish(self, total: Any, round_: int) -> None:
        """Make the new summands and their sum."""
        self._training = False
        parts, known = total
        self.clients |= known
        self.parts = {**self.parts, **parts.mean()}
        weights: Arrays = {}  # a new mapping: the old one is what a run that fails in this round ends with
        for name in self.weights:
            sigma: NDArray[Any] = self.parts[_SIGMA + name]
            psi = self.parts.get(_PSI + name)
            weights[name] = sigma if psi is None else sigma + psi
        self.weights = weights

    def state(self) -> Arrays:
        """Give the summands, what clients are remembered by, and when they last got helpers."""
        return {
            **self.parts,
            **joined("client", self.clients),
            **{f"sent/{name}": np.array(round_) for name, round_ in self.sent.items()},
        }

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""
        self.parts = {name: value for name, value in state.items() if name.startswith((_SIGMA, _PSI))}
        self.clients = divided("client", state)
        self.sent = {key.removeprefix("sent/"): int(value) for key, value in state.items() if key.startswith("sent/")}


plugin = Plugin(
    FedMatchSettings, FedMatchClient, FedMatchServer, "weights in two summands, agreement with helpers (Jeong 2021)"
)
