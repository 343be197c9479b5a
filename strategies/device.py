"""The device that a process trains and measures on."""

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
