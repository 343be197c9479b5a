"""Configuration: the schema of a run, its bundled YAML files, and the reader that reports every fault at once."""

from .faults import ConfigError, Fault
from .load import bundled, completed, load_config, to_yaml
from .ordering import OrderConfig
from .schema import (
    ClientsConfig,
    Config,
    DataConfig,
    EngineConfig,
    EvaluateConfig,
    LabelsConfig,
    ModelConfig,
    ModelSpec,
    PartitionConfig,
    ServerDataConfig,
    StopConfig,
    TrainConfig,
)

__all__ = [
    "ClientsConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EngineConfig",
    "EvaluateConfig",
    "Fault",
    "LabelsConfig",
    "ModelConfig",
    "ModelSpec",
    "OrderConfig",
    "PartitionConfig",
    "ServerDataConfig",
    "StopConfig",
    "TrainConfig",
    "bundled",
    "completed",
    "load_config",
    "to_yaml",
]
