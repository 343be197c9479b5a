"""SCAFFOLD: control variates against the drift of clients (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1).

The server keeps c, client i keeps c_i, at first 0. From y = x a client takes K steps y <- y - lr (g(y) - c_i + c), then
c_i' = c_i - c + (x - y) / (K lr) (option II; plain SGD). The server: x <- mean y, c <- c + |S|/N mean(c_i' - c_i).
"""

import numpy as np
import torch

from fedbox.strategies import Arrays, Ask, ClientHalf, Plugin, ServerHalf, Settings, Site, UnsuitableError, Update

C, PLAIN = "control", {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "clip_norm": None}


class ScaffoldClient(ClientHalf[Settings]):
    """Corrects every gradient by c - c_i; c_i stays with it."""

    def train(self, site: Site) -> Update:
        flat, start = site.flat, site.flat.flat.clone()
        c, own = (torch.tensor(held.get(C, 0.0)).to(start) for held in (site.received, site.state))
        fit = site.fit(lambda batch: self.loss(site, batch), adjust=lambda: flat.flat_grad.add_(c - own))
        if not fit.steps:
            return Update()
        new = own - c + (start - flat.flat) / (fit.steps * site.lr)
        site.state[C] = new.cpu().numpy()
        return Update({**site.weights(), C: (new - own).cpu().numpy()}, fit.examples, fit.metrics)


class ScaffoldServer(ServerHalf[Settings]):
    """Keeps c beside the weights; both travel both ways. Every client counts once, whatever its number of samples."""

    def __init__(self, settings: Settings, site: Site) -> None:
        super().__init__(settings, site)
        if [getattr(site.train_config, name) for name in PLAIN] != [*PLAIN.values()]:
            raise UnsuitableError("scaffold needs plain steps: train.optimizer=sgd, no momentum, schedule or clip_norm")
        self.c, self.population = np.zeros(len(site.flat.flat), np.float32), site.population

    def ask(self, round_: int) -> Ask:
        return Ask({**self.weights, C: self.c})

    def expects(self) -> Arrays:
        return {**self.weights, C: self.c}

    def add(self, total, client: str, update: Update) -> None:
        if update.examples:
            total.add(update.weights, 1)

    def finish(self, total, round_: int) -> None:
        mean = {C: np.float32(0), **total.mean()}
        self.c += np.float32(total.terms / self.population) * mean.pop(C)
        self.weights |= mean

    def state(self) -> Arrays:
        return {C: self.c.copy()}

    def restore(self, state: Arrays) -> None:
        self.c = np.array(state[C], np.float32)


plugin = Plugin(Settings, ScaffoldClient, ScaffoldServer, "control variates against drift (Karimireddy 2020)")
