"""pfl-research (Apple) on torch as a contestant: FederatedAveraging over its SimulatedBackend, in one process.

pfl 0.6.0 pins old versions of torch and others but runs beside new ones, so it is installed without its dependencies
into a folder of its own under the user's cache.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from contest import Weights
from race import LR, Loop, Work, loop_of

VERSION = "0.6.0"
PACKAGES = (f"pfl=={VERSION}", "dp-accounting", "multiprocess", "dill", "prv-accountant")


def provide() -> str | None:
    """Make pfl importable, installing it first where it is missing; give why that failed, None when it did not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "fedbox" / "benchmarks" / f"pfl-{VERSION}"
    if not (place / "pfl").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"pip cannot install pfl {VERSION}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
    sys.path.append(str(place))  # at the end: what is installed for fedbox comes first
    try:
        import pfl.model.pytorch  # noqa: F401
    except ImportError as error:
        return f"pfl {VERSION} in {place} cannot be imported: {error}"
    return None


class _Module(torch.nn.Module):
    """A classifier with the two methods that pfl asks for."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Give the cross-entropy of a batch."""
        self.train()
        return torch.nn.functional.cross_entropy(self.inner(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        """Give nothing: nobody evaluates."""
        return {}


class Pfl:
    """A round of pfl over the same tensors, in the same batches; clients have equally many samples, as pfl counts."""

    def __init__(self, loop: Loop) -> None:
        from pfl.aggregate.simulate import SimulatedBackend
        from pfl.algorithm.federated_averaging import FederatedAveraging
        from pfl.data.dataset import Dataset
        from pfl.data.federated_dataset import FederatedDataset
        from pfl.model.pytorch import PyTorchModel

        self.loop, self.number = loop, 0
        module = _Module(loop.model)
        self.model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), 1.0))
        turn: Iterator[int] = cycle(range(len(loop.clients)))

        def data_of(client: int) -> Any:
            name, x, y = loop.clients[client]
            order = loop.order(self.number, name, len(y))
            return Dataset((x[order], y[order]))

        data = FederatedDataset(data_of, lambda: next(turn))
        self.backend, self.algorithm = SimulatedBackend(data, data), FederatedAveraging()

    def round(self, number: int, weights: Weights) -> Weights:
        """Run one of pfl's central iterations."""
        from pfl.algorithm.base import NNAlgorithmParams
        from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams

        self.number, loop = number, self.loop
        loop.model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        self.algorithm.run(
            NNAlgorithmParams(number, 10**9, len(loop.clients), None),
            self.backend,
            self.model,
            NNTrainHyperParams(loop.batch, 1, LR),
            NNEvalHyperParams(loop.batch),  # pfl evaluates in its first iteration, which does not count
            [],
            send_metrics_to_platform=False,
        )
        return {name: value.detach().numpy().copy() for name, value in loop.model.state_dict().items()}


def pfl_over(work: Work) -> Pfl:
    """Give pfl over the work."""
    return Pfl(loop_of(work))
