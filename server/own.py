"""What the server itself holds: its samples, read when first asked for, and the models that it works on."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ..models import FlatModel
from ..strategies.federation import Federation
from ..strategies.samples import Samples
from ..strategies.site import Holdings, Site


class Own:
    """The server's samples and models on one device; makes its `Site` of a round."""

    def __init__(self, federation: Federation, population: int) -> None:
        self._federation, self._population = federation, population
        self._config = federation.config
        self.device = torch.device(self._config.engine.device)
        self.flat: FlatModel = federation.model(self.device)
        self._spare: FlatModel | None = None
        self._holdings = self._hold()

    def site(self, round_: int) -> Site:
        """Give the site that the strategy's server half works at."""
        if self._config.model.buffers == "drop":
            self.flat.reset_buffers()
        return self._site(round_, self.flat)

    def copy(self, round_: int) -> Site:
        """Give a site whose model is a copy, which is measured while the other one goes on."""
        if self._spare is None:
            self._spare = self._federation.model(self.device)
        site = self.site(round_)
        self._spare.load(self.flat.state([*site.model.state_dict()]))
        return self._site(round_, self._spare)

    def _site(self, round_: int, flat: FlatModel) -> Site:
        config = self._config
        return Site(
            name="server",
            flat=flat,
            train_config=config.train,
            holdings=self._holdings,
            classes=len(self._federation.dataset.classes),
            seed=config.seed,
            buffers=config.model.buffers,
            batch_size=config.evaluate.batch_size,
            round=round_,
            rounds=config.rounds,
            build=lambda: self._federation.model(self.device),
            population=self._population,
        )

    def _hold(self) -> Holdings:
        federation, device = self._federation, self.device

        def some(places: Callable[[], NDArray[np.int64]], **how: bool) -> Callable[[], Samples]:
            return cache(lambda: federation.samples(places(), device, **how))

        return Holdings(
            labelled=some(lambda: federation.server),
            unlabelled=some(lambda: federation.server[:0]),
            test=cache(lambda: federation.server_samples(device)),
            pooled=some(federation.pooled),
            pooled_labelled=some(federation.pooled_labelled),
            pooled_unlabelled=some(federation.pooled_unlabelled, labelled=False),
            pooled_size=cache(lambda: len(federation.pooled())),
        )
