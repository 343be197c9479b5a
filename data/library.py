"""The partitioners of flwr-datasets, without what else its package brings along."""

import importlib
import importlib.util
import sys
from typing import Any

_PACKAGE = "flwr_datasets"


def partitioners() -> Any:
    """Give the module `flwr_datasets.partitioner`.

    To import it is to import the package first, and with it the module of its plots and metrics: matplotlib, seaborn
    and scipy.stats, a second that a run waits for before its first round. So the package stands empty while its
    partitioners are imported, and is forgotten then: whoever imports it later gets the whole, with these in it.
    """
    name = f"{_PACKAGE}.partitioner"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(_PACKAGE)
    if _PACKAGE in sys.modules or spec is None:
        return importlib.import_module(name)
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[_PACKAGE]
