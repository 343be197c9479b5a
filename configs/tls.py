"""The certificate files that both ends of a line are given."""

import ipaddress
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .faults import ConfigError, Fault


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, and the authority that both ends trust; all as PEM."""

    certificate: bytes
    key: bytes
    authority: bytes


def is_loopback(host: str) -> bool:
    """Say whether a host, as it stands in HOST:PORT, is this machine by its loopback."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_identity(cert: Path | None, key: Path | None, ca: Path | None, insecure: bool) -> Identity | None:
    """Read and check the files; None for a line without TLS. Raises ConfigError with every fault of the options."""
    files = {"--cert": cert, "--key": key, "--ca": ca}
    if insecure and not any(files.values()):
        return None
    wanted = "is missing; TLS needs all of --cert, --key and --ca"
    faults = [Fault(option, wanted) for option, path in files.items() if not path]
    faults += [Fault(option, f"{path} is no file") for option, path in files.items() if path and not path.is_file()]
    if insecure:
        faults.append(Fault("--insecure", "goes without --cert, --key and --ca"))
    if not faults and cert and key and ca:
        faults = list(_faults(cert, key, ca))
    if faults:
        raise ConfigError("given", faults)
    return Identity(*(path.read_bytes() for path in files.values() if path))


def doubts(identity: Identity | None) -> list[str]:
    """Say what of the certificates' times keeps lines from coming about, now or within a week.

    These are no faults: a machine that has just been switched on may not know the date yet.
    """
    from cryptography import x509

    found, now = [], datetime.now(UTC)
    given = {"--cert": identity.certificate, "--ca": identity.authority} if identity is not None else {}
    for option, data in given.items():
        made = x509.load_pem_x509_certificate(data)
        begin, end = made.not_valid_before_utc, made.not_valid_after_utc
        if now < begin:
            found.append(
                f"the certificate of {option} holds from {begin:%Y-%m-%d} on, and this machine has {now:%Y-%m-%d}"
            )
        elif now > end:
            found.append(f"the certificate of {option} expired on {end:%Y-%m-%d}: no line comes about with it")
        elif now > end - timedelta(days=7):
            found.append(
                f"the certificate of {option} expires on {end:%Y-%m-%d %H:%M} UTC; no line comes about after that"
            )
    return found


def _faults(cert: Path, key: Path, ca: Path) -> Iterator[Fault]:
    """Find what is wrong with the files: gRPC would only say that it cannot listen, or that no line comes about."""
    faulty = False
    for option, path in (("--cert", cert), ("--ca", ca)):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as error:  # what OpenSSL raises is one
            faulty = True
            yield Fault(option, f"{path} is no certificate in PEM form{_told(error)}")
    if faulty:
        return
    try:
        # A key with a password would wait for somebody to type it, here and in gRPC.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            yield Fault("--key", f"{key} is not the key of {cert}")
        else:
            yield Fault("--key", f"{key} is no private key in PEM form without a password{_told(error)}")


def _told(error: OSError) -> str:
    """Give the system's word, where it is not OpenSSL that could not read the file."""
    return "" if isinstance(error, ssl.SSLError) else f" ({error.strerror})"
