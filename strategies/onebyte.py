"""Just One Byte (per gradient) (arXiv 2306.10015): zeroth-order training in which a sample travels as one byte.

In round r, for each sample j of client k, on one batch, with z regenerated from hash(seed, r, j, k):

    g = (l(w + eps z) - l(w - eps z)) / (2 eps)                 sent as a byte: sign and 7-bit logarithmic magnitude
    w <- w - lr g z / sqrt(n)                                   by everybody, for all n bytes, in the machines' order

The way down is the log of the bytes since the round that a client's model is of, or the model where that is less.
Every reply carries a digest of the model the client computed on: one that differs is refused and the client is sent the
model; where it differs again, the client is excluded. The authors' code restores a backup every 16 iterations, for its
weights drift by adding and taking away eps z; here each loss is measured on weights made anew from the untouched
vector, and only bytes of the log ever change that vector.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..configs import TrainConfig
from .contract import Arrays, Ask, ClientHalf, Metrics, Plugin, RefusedUpdateError, ServerHalf, Settings, Site, Update
from .samples import Samples
from .scalar_log import ScalarLog, machine
from .trainable import Trainable
from .zeroth import DIGEST, NOT_FINITE, Law, decode, digest, direction, encode, key_of

_VECTOR, _ROUND, _MODEL, _CODES = "vector", "round", "model", "codes"
_FINE, _REPAIRED, _EXCLUDED = 0, 1, 2


class OneByteSettings(Settings):
    """Settings of onebyte; `train.lr`, `train.lr_decay` and `train.batch_size` hold too."""

    samples: int = Field(4, ge=1, le=4096, description="perturbations, and so bytes, of a client a round")
    epsilon: float = Field(1e-3, gt=0, le=1, description="size of a perturbation")
    scale: Literal["sqrt", "mean"] = Field("sqrt", description="n samples a round are divided by sqrt(n), or by n")
    law: Law = Field("rademacher", description="perturbations of +1 and -1, or bell-shaped")
    largest: float = Field(64.0, gt=0, description="largest magnitude of a byte; the smallest is 2,600 times less")
    lora_rank: int = Field(0, ge=0, le=256, description="rank of LoRA on the frozen initial model; 0: all weights")
    machine: Literal["clients", "server"] = Field(
        "clients", description="server: one machine on all the data (simulation only), the reference point"
    )


def replay(vector: Tensor, log: ScalarLog, settings: OneByteSettings, train: TrainConfig, seed: int) -> Tensor:
    """Give a new vector: the log applied to this one. The same bits on every device."""
    vector = vector.clone()
    for round_, (who, codes) in enumerate(log.entries, start=log.first + 1):
        lr = train.lr * train.lr_decay ** (round_ - 1)
        step = lr / (math.sqrt(codes.size) if settings.scale == "sqrt" else codes.size) if codes.size else 0.0
        for number, row in zip(who.tolist(), decode(codes, settings.largest), strict=True):
            for sample, value in enumerate(row.tolist()):
                z = direction(key_of(seed, round_, sample, number), len(vector), settings.law, vector.device)
                vector.sub_(z.mul_(step * value))  # two operations: one alone would be fused on some devices
    return vector


@torch.no_grad()
def estimate(
    site: Site, trainable: Trainable, vector: Tensor, samples: Samples, number: int, settings: OneByteSettings
) -> tuple[NDArray[np.float64], float]:
    """Give the projected gradients of a round's samples, [settings.samples], and the mean loss."""
    site.model.eval()
    values, losses, size = [], [], site.train_config.batch_size
    batches = site.batches(samples, steps=settings.samples, batch_size=size)
    for sample, batch in enumerate(batches):
        z = direction(key_of(site.seed, site.round, sample, number), len(vector), settings.law, site.device)
        pair = []
        for sign in (1.0, -1.0):
            trainable.put(site.model, vector + sign * settings.epsilon * z)
            pair.append(float(samples.loss(site.model, batch)))
        values.append((pair[0] - pair[1]) / (2 * settings.epsilon))
        losses.append(sum(pair) / 2)
    trainable.put(site.model, vector)
    return np.array(values), sum(losses) / len(losses)


class OneByteClient(ClientHalf[OneByteSettings]):
    """Brings its model up to date from the log, and measures along its own directions."""

    def prepare(self, site: Site) -> None:
        """Catch up: from the model it kept, or the initial one, by replay; or by the model it was sent."""
        trainable, received = self._trainable(site), site.received
        vector, at = trainable.initial(), 0
        if _VECTOR in site.state:
            vector, at = torch.from_numpy(np.array(site.state[_VECTOR])).to(site.device), int(site.state[_ROUND][0])
        if _MODEL in received:
            vector, at = torch.from_numpy(np.array(received[_MODEL])).to(site.device), int(received["first"][0])
        elif "first" in received:
            log = ScalarLog.of(self.settings.samples, received)
            known = at - log.first
            if 0 <= known <= len(log.entries):  # else its model is another than the server thinks: the digest tells
                log.entries, log.first = log.entries[known:], at
                vector, at = replay(vector, log, self.settings, site.train_config, site.seed), log.last
        site.state = {_VECTOR: vector.cpu().numpy(), _ROUND: np.array([at], np.int64)}
        trainable.put(site.model, vector)

    def _trainable(self, site: Site) -> Trainable:
        # The initial weights: the model begins every visit from them.
        return Trainable(site.model, self.settings.lora_rank, site.seed)

    def train(self, site: Site) -> Update:
        """Give one array: a byte a sample, then the digest of the model (a second array would cost another header)."""
        vector = torch.from_numpy(np.array(site.state[_VECTOR])).to(site.device)
        codes = np.zeros(0, np.uint8)
        metrics = {"payload_down": float(sum(value.nbytes for value in site.received.values()))}
        examples = len(site.labelled)
        if examples:
            trainable = self._bare(site)
            values, metrics["train_loss"] = estimate(
                site, trainable, vector, site.labelled, machine(site.name), self.settings
            )
            codes = encode(values, self.settings.largest)
        sent = np.concatenate([codes, digest(vector)])
        return Update({}, examples, {**metrics, "payload_up": float(sent.nbytes)}, {_CODES: sent})

    def _bare(self, site: Site) -> Trainable:
        """Give the trainable again; with LoRA its base is the initial model, which `prepare` wrote over."""
        if self.settings.lora_rank:
            site.flat.load(site.spare.state(tuple(dict(site.model.named_parameters()))))
        return self._trainable(site)


class OneByteServer(ServerHalf[OneByteSettings]):
    """Gathers the bytes, applies them, and knows which round each client's model is of."""

    takes_late = False  # bytes are scalars along the directions of their own round, and belong to its model

    def __init__(self, settings: OneByteSettings, site: Site) -> None:
        super().__init__(settings, site)
        self.seed, self.train = site.seed, site.train_config
        self.trainable = Trainable(site.model, settings.lora_rank, site.seed)
        self.vector = self.trainable.initial()
        self.digest = digest(self.vector)
        self.log = ScalarLog(settings.samples)
        self.members: dict[str, tuple[int, int]] = {}
        """By client: the round that its model is of (-1: it is to be sent the model), and its standing."""

    def ask(self, round_: int) -> Ask | None:
        """Ask for bytes; what is sent stands in `ask_client`."""
        return Ask() if self.settings.machine == "clients" else None

    def ask_client(self, round_: int, client: str) -> Mapping[str, NDArray[Any]]:
        """Give the log since the client's round or, where that is fewer bytes, the model; nothing to the excluded."""
        at, standing = self.members.get(client, (0, _FINE))
        if standing == _EXCLUDED:
            return {}
        size = self.log.size(at)
        if self.settings.machine == "server" or size is None or size > self._model_bytes():
            return {_MODEL: self.vector.cpu().numpy(), "first": np.array([self.log.last], np.int64)}
        return self.log.since(at)

    def _model_bytes(self) -> int:
        return self.vector.numel() * self.vector.element_size()

    def ask_evaluate(self, round_: int) -> Ask:
        """Send what brings a client up to date, which `ask_client` gives."""
        return Ask(phase="evaluate")

    def expects(self) -> Mapping[str, NDArray[Any]]:
        """No weights travel."""
        return {}

    def begin(self) -> Any:
        """Give an empty round."""
        self.digest = digest(self.vector)  # the model does not change before `finish`
        return {}

    def add(self, total: Any, client: str, update: Update) -> None:
        """Take a client's bytes. Raises RefusedUpdateError for another model, a form not asked for, or no number."""
        sent = update.extra.get(_CODES, np.zeros(0, np.uint8))
        wanted = self.settings.samples if update.examples else 0
        if sent.dtype != np.uint8 or sent.shape != (wanted + DIGEST,):
            raise RefusedUpdateError(
                f"{client}: codes are {sent.dtype} {list(sent.shape)}; wanted uint8 [{wanted + DIGEST}], "
                f"a byte a sample and {DIGEST} of the digest"
            )
        codes = sent[:wanted]
        self._check_digest(client, sent[wanted:])
        if bad := int((codes == NOT_FINITE).sum()):
            raise RefusedUpdateError(
                f"{client}: {bad} of {wanted} scalars are not finite (NaN or infinite); a smaller train.lr may mend it"
            )
        number = machine(client)
        # Two clients may have equal numbers, by a rare chance: the first by name counts, whoever came first.
        if wanted and (number not in total or client < total[number][0]):
            total[number] = client, np.array(codes)

    def _check_digest(self, client: str, found: NDArray[Any]) -> None:
        _, standing = self.members.get(client, (0, _FINE))
        if standing == _EXCLUDED:
            raise RefusedUpdateError(f"{client} is excluded: its model differed again after it was sent the model")
        if np.array_equal(found, self.digest):
            self.members[client] = (self.log.last, standing)
            return
        wanted = f"{client}: digest {found.tobytes().hex()}, the server's is {self.digest.tobytes().hex()}"
        if standing == _REPAIRED:
            self.members[client] = (-1, _EXCLUDED)
            raise RefusedUpdateError(f"{wanted}: its model differs again after a repair; the client is excluded")
        self.members[client] = (-1, _REPAIRED)
        raise RefusedUpdateError(f"{wanted}: its model differs; it will be sent the model, once")

    def finish(self, total: Any, round_: int) -> None:
        """Apply the round's bytes."""
        while self.log.last < round_ - 1:  # rounds in which nobody was asked
            self.log.append({})
        self.log.append({number: codes for number, (_, codes) in total.items()})
        newest = ScalarLog(self.settings.samples, round_ - 1, self.log.entries[-1:])
        self.vector = replay(self.vector, newest, self.settings, self.train, self.seed)
        self.log.trim(self._model_bytes())
        self.weights = {**self.weights, **self.trainable.arrays(self.vector)}

    def refine(self, site: Site) -> Metrics:
        """With `machine=server`: measure and apply on all the data."""
        if self.settings.machine == "clients":
            return {}
        values, loss = estimate(site, self.trainable, self.vector, site.pooled, 0, self.settings)
        codes = encode(values, self.settings.largest)
        if (codes == NOT_FINITE).any():
            raise ValueError("onebyte: a scalar of the server is not finite; a smaller train.lr often mends it")
        self.finish({0: (site.name, codes)}, site.round)
        return {"train_loss": loss}

    def state(self) -> Arrays:
        """Give the log, what is known of the clients, and the trained vector."""
        log = {f"log/{name}": value for name, value in self.log.since(self.log.first).items()}
        members = {f"member/{name}": np.array(row, np.int64) for name, row in self.members.items()}
        return {**log, **members, _VECTOR: self.vector.cpu().numpy()}

    def restore(self, state: Arrays) -> None:
        """Take back what `state` gave."""
        log = {name.removeprefix("log/"): value for name, value in state.items() if name.startswith("log/")}
        self.log = ScalarLog.of(self.settings.samples, log)
        rows = {name.removeprefix("member/"): row for name, row in state.items() if name.startswith("member/")}
        self.members = {name: (int(row[0]), int(row[1])) for name, row in rows.items()}
        self.vector = torch.from_numpy(np.array(state[_VECTOR])).to(self.vector.device)


plugin = Plugin(OneByteSettings, OneByteClient, OneByteServer, "zeroth-order, one byte a sample (arXiv 2306.10015)")
