"""A small certificate authority for one federation: `fedbox certs`.

The keys are on the curve P-256. A client's name stands in its certificate as common name, the server's address as
subject alternative name. The key of the authority, ca.key, stays where the certificates are made.
"""

import ipaddress
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .enrolment import NAME, EnrolmentError, Entry, read_entries, write_entries

LIST = "clients.txt"
_CA_DAYS = 3650


def make_certificates(folder: Path, hosts: Sequence[str], clients: Sequence[str], days: int = 365) -> list[Path]:
    """Make what is not there yet: ca.pem, server.pem and NAME.pem with their keys, and the list of clients.

    `hosts` are names or addresses by which clients reach the server. Files that are there stay as they are. Gives the
    files that were written. Raises EnrolmentError for a name that cannot be one.
    """
    if wrong := [name for name in clients if not NAME.fullmatch(name) or name in ("ca", "server")]:
        raise EnrolmentError(
            f"no client can be called {', '.join(map(repr, wrong))}; wanted: letters, digits, . _ - (64 at most), "
            "and neither ca nor server"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    ca, ca_key = _authority(folder, written)
    if not (folder / "server.pem").exists():
        if not hosts:
            raise EnrolmentError(f"{folder} has no server.pem yet: name the server by --server HOST")
        names = x509.SubjectAlternativeName(_alternatives([*hosts, "localhost", "127.0.0.1"]))
        # Of a client's purpose as well: with it `fedbox status` may ask.
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        _issue(folder / "server", hosts[0], (ca, ca_key), days, both, written, names)
    path = folder / LIST
    entries = read_entries(path) if path.exists() else {}
    for name in clients:
        if (folder / f"{name}.pem").exists() and not (name in entries and entries[name].revoked):
            continue
        made = _issue(folder / name, name, (ca, ca_key), days, [ExtendedKeyUsageOID.CLIENT_AUTH], written)
        entries[name] = Entry(name, made.fingerprint(hashes.SHA256()).hex())
    write_entries(path, entries)
    return [*written, path]


def revoke(folder: Path, names: Iterable[str]) -> None:
    """Strike clients off the list in `folder`; a server that uses the list drops them at once."""
    path = folder / LIST
    entries = read_entries(path)
    for name in names:
        if name not in entries:
            raise EnrolmentError(f"{path} does not name {name}; it names {', '.join(entries) or 'nobody'}")
        entries[name] = Entry(name, entries[name].fingerprint, revoked=True)
    write_entries(path, entries)


_Issuer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _authority(folder: Path, written: list[Path]) -> _Issuer:
    pem, key_path = folder / "ca.pem", folder / "ca.key"
    if pem.exists():
        if not key_path.exists():
            raise EnrolmentError(f"{folder} has ca.pem but not ca.key: certificates are made where both are")
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise EnrolmentError(f"{key_path} is not one of our keys")
        return x509.load_pem_x509_certificate(pem.read_bytes()), key
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("fedbox")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        _begin(name, name, key, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder / "ca", made, key, written)
    return made, key


def _issue(
    stem: Path,
    name: str,
    issuer: _Issuer,
    days: int,
    purposes: list[x509.ObjectIdentifier],
    written: list[Path],
    alternatives: x509.SubjectAlternativeName | None = None,
) -> x509.Certificate:
    ca, ca_key = issuer
    key = ec.generate_private_key(ec.SECP256R1())
    draft = (
        _begin(_name(name), ca.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if alternatives is not None:
        draft = draft.add_extension(alternatives, critical=False)
    made = draft.sign(ca_key, hashes.SHA256())
    _write(stem, made, key, written)
    return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _alternatives(hosts: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _write(stem: Path, made: x509.Certificate, key: ec.EllipticCurvePrivateKey, written: list[Path]) -> None:
    pem, secret = stem.with_name(stem.name + ".pem"), stem.with_name(stem.name + ".key")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    secret.unlink(missing_ok=True)
    with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    written += [pem, secret]
