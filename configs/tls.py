"""The certificate files that both ends of a line are given."""

from dataclasses import dataclass
from pathlib import Path

from .faults import ConfigError, Fault


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, and the authority that both ends trust; all as PEM."""

    certificate: bytes
    key: bytes
    authority: bytes


def read_identity(cert: Path | None, key: Path | None, ca: Path | None, insecure: bool) -> Identity | None:
    """Read the files; None for a line without TLS. Raises ConfigError with every fault of the options."""
    files = {"--cert": cert, "--key": key, "--ca": ca}
    if insecure and not any(files.values()):
        return None
    wanted = "is missing; TLS needs all of --cert, --key and --ca"
    faults = [Fault(option, wanted) for option, path in files.items() if not path]
    faults += [Fault(option, f"{path} is no file") for option, path in files.items() if path and not path.is_file()]
    if insecure:
        faults.append(Fault("--insecure", "goes without --cert, --key and --ca"))
    if faults:
        raise ConfigError("given", faults)
    return Identity(*(path.read_bytes() for path in files.values() if path))
