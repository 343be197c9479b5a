"""The partitioners come without the plots of their package, which is whole all the same for whoever wants it."""

import subprocess
import sys

PROGRAM = """
import sys
from fedbox.data import partition
import numpy as np
dealt = partition(np.arange(40) % 4, kind="dirichlet", clients=2, alpha=10.0, seed=0)
assert sorted(np.concatenate([dealt.indices(0), dealt.indices(1)]).tolist()) == list(range(40))
assert "seaborn" not in sys.modules, "the plots were imported"
assert "flwr_datasets" not in sys.modules, "half a package was left behind"

import flwr_datasets
from flwr_datasets.partitioner import DirichletPartitioner
from flwr_datasets.visualization import plot_label_distributions
assert flwr_datasets.partitioner.DirichletPartitioner is DirichletPartitioner
assert flwr_datasets.FederatedDataset.__module__ == "flwr_datasets.federated_dataset"
partition(np.arange(40) % 4, kind="iid", clients=2, seed=0)
"""


def test_the_partitioners_come_alone_and_the_package_is_whole_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
