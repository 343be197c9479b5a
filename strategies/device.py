"""The device that a process trains and measures on."""

import os

import torch

from ..configs import ConfigError, Fault


def check_device(name: str, key: str = "engine.device") -> None:
    """Raise ConfigError unless torch knows the device and this machine has it. `key`: where it was named."""
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        have = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        problem = (
            f"got '{name}', which cannot be used ({str(error).splitlines()[0]}); this machine has {', '.join(have)}"
        )
        raise ConfigError("given", [Fault(key, problem)]) from error


VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable that tells CUDA, before it begins, which GPUs a process has."""


def gpus(name: str) -> list[str]:
    """Give the GPUs that workers on a device share, as `VISIBLE` names them; none where a device means one alone.

    `cuda` stands for all that this process sees, `cuda:1` for that one.
    """
    if name != "cuda":
        return []
    count = torch.cuda.device_count()
    visible = os.environ.get(VISIBLE)
    return [str(number) for number in range(count)] if visible is None else visible.split(",")[:count]
