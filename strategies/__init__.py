"""Strategies: the contract, the registry, and one file for each method with both of its halves."""

from .contract import (
    Arrays,
    Ask,
    Batch,
    ClientHalf,
    ExactSum,
    Metrics,
    Plugin,
    RefusedUpdateError,
    Samples,
    ServerHalf,
    Settings,
    Site,
    UnsuitableError,
    Update,
)
from .selection import Selector, SelectorPlugin

__all__ = [
    "Arrays",
    "Ask",
    "Batch",
    "ClientHalf",
    "ExactSum",
    "Metrics",
    "Plugin",
    "RefusedUpdateError",
    "Samples",
    "Selector",
    "SelectorPlugin",
    "ServerHalf",
    "Settings",
    "Site",
    "UnsuitableError",
    "Update",
]
