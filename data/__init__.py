"""Data: readers, partitions, roles, views and measures of images with classes or boxes.

Importing the room is quick: torch, datasets, pillow and matplotlib are imported where they are used.
"""

from .arrays import DataError, DataSet, ImageData, TextSet
from .box_views import BoxViews, Geometry, Targets
from .boxes_data import BoxData, BoxSet
from .coco_map import coco_metrics, match_quality
from .describe import ClientTable, client_table, plot_partition
from .partition import Partition, partition
from .registry import DATASETS, available_datasets, dataset_options, load_dataset
from .roles import Roles, assign_roles, holdout, server_share
from .rows import Rows
from .views import Views

__all__ = [
    "DATASETS",
    "BoxData",
    "BoxSet",
    "BoxViews",
    "ClientTable",
    "DataError",
    "DataSet",
    "Geometry",
    "ImageData",
    "Partition",
    "Roles",
    "Rows",
    "Targets",
    "TextSet",
    "Views",
    "assign_roles",
    "available_datasets",
    "client_table",
    "coco_metrics",
    "dataset_options",
    "holdout",
    "load_dataset",
    "match_quality",
    "partition",
    "plot_partition",
    "server_share",
]
