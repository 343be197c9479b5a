"""Data: readers, partitions, roles, and weak and strong views of images.

Importing the room is quick: torch, datasets, pillow and matplotlib are imported where they are used.
"""

from .arrays import DataError, DataSet, ImageData
from .describe import ClientTable, client_table, plot_partition
from .partition import Partition, partition
from .registry import DATASETS, available_datasets, dataset_options, load_dataset
from .roles import Roles, assign_roles, holdout, server_share
from .views import Views

__all__ = [
    "DATASETS",
    "ClientTable",
    "DataError",
    "DataSet",
    "ImageData",
    "Partition",
    "Roles",
    "Views",
    "assign_roles",
    "available_datasets",
    "client_table",
    "dataset_options",
    "holdout",
    "load_dataset",
    "partition",
    "plot_partition",
    "server_share",
]
