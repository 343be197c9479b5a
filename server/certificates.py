"""A small certificate authority for one federation: `fedbox certs`.

The keys are on the curve P-256. A client's name stands in its certificate as common name, the server's address as
subject alternative name. The key of the authority, ca.key, stays where the certificates are made.
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .enrolment import NAME, EnrolmentError, Entry, read_entries, write_entries

LIST = "clients.txt"
_CA_DAYS = 3650
_HOST = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")


@dataclass
class Made:
    """The files that were written, and a line about each certificate that was asked for and is there already."""

    written: list[Path] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def make_certificates(
    folder: Path, hosts: Sequence[str], clients: Sequence[str], days: int = 365, renew: bool = False
) -> Made:
    """Make what is not there yet: ca.pem, server.pem and NAME.pem with their keys, and the list of clients.

    `hosts` are names or addresses by which clients reach the server. With `renew` those that are named are made anew;
    else files that are there stay as they are, and a client of them that the list lacks is put on it. Raises
    EnrolmentError, before anything is written, for a name that cannot be one.
    """
    names = _checked(folder, hosts, clients, renew)
    folder.mkdir(parents=True, exist_ok=True)
    made = Made()
    issuer = _authority(folder, made.written)
    server = folder / "server.pem"
    if hosts and server.exists() and not renew:
        found = _read(server)
        made.kept.append(f"{_lasting(server, found)} for {_told(found)}; --renew makes a new one")
    elif hosts:
        # Of a client's purpose as well: with it `fedbox status` may ask.
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        alternatives = x509.SubjectAlternativeName(names)
        _issue(folder / "server", _short(names[0]), issuer, days, both, made.written, alternatives)
    path = folder / LIST
    entries = read_entries(path) if path.exists() else {}
    for name in clients:
        _enrol(folder / f"{name}.pem", issuer, days, renew, entries, made)
        write_entries(path, entries)  # one by one: whatever happens with the next, this one may join
    if not path.exists():
        write_entries(path, entries)
    made.written.append(path)
    return made


def _enrol(pem: Path, issuer: "_Issuer", days: int, renew: bool, entries: dict[str, Entry], made: Made) -> None:
    """Make a client's certificate, or take the one that is there, and put its fingerprint on the list."""
    name, purposes = pem.stem, [ExtendedKeyUsageOID.CLIENT_AUTH]
    entry = entries.get(name)
    if not pem.exists() or renew or (entry is not None and entry.revoked):
        found = _issue(pem.with_suffix(""), name, issuer, days, purposes, made.written)
        entries[name] = Entry(name, _fingerprint(found))
        return
    found = _read(pem)
    if entry is None:
        entries[name] = Entry(name, _fingerprint(found))
        more = ", and is on the list now"
    else:
        other = entry.fingerprint and entry.fingerprint != _fingerprint(found)
        more = ", but the list names another" if other else ""
    made.kept.append(f"{_lasting(pem, found)}{more}; --renew makes a new one")


def _checked(folder: Path, hosts: Sequence[str], clients: Sequence[str], renew: bool) -> list[x509.GeneralName]:
    """Give the server's names. Raises EnrolmentError for what cannot be made."""
    if wrong := [name for name in clients if not NAME.fullmatch(name) or name in ("ca", "server")]:
        raise EnrolmentError(
            f"no client can be called {', '.join(map(repr, wrong))}; wanted: letters, digits, . _ - (64 at most), "
            "and neither ca nor server"
        )
    if renew and not (hosts or clients):
        raise EnrolmentError("--renew makes those certificates anew that are named: add --client NAME or --server HOST")
    if not hosts and not (folder / "server.pem").exists():
        raise EnrolmentError(f"{folder} has no server.pem yet: name the server by --server HOST")
    return _alternatives([*hosts, "localhost", "127.0.0.1"])


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
    """Give names and addresses as certificates hold them. Raises EnrolmentError for what is neither."""
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host.strip("[]"))))
        except ValueError:
            found.append(x509.DNSName(_ascii(host)))
    return list(dict.fromkeys(found))


def _ascii(host: str) -> str:
    """Give a host's name in the letters that it has on the net: those of other alphabets are written as xn--..."""
    try:
        name = host.encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise EnrolmentError(
            f"{host!r} is no name or address of a server; wanted such as fed.example.org or 192.0.2.7, without a port"
        )
    return name


def _short(name: x509.GeneralName) -> str:
    """Give the common name, of 64 characters at most; clients look at the alternative names only."""
    text = str(name.value)
    return text if len(text) <= 64 else "server"


def _read(pem: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.read_bytes())
    except (OSError, ValueError) as error:
        raise EnrolmentError(f"{pem} cannot be read as a certificate ({error}); --renew makes a new one") from error


def _lasting(pem: Path, found: x509.Certificate) -> str:
    end = found.not_valid_after_utc
    return f"{pem} is there, {'valid until' if end > datetime.now(UTC) else 'but expired on'} {end:%Y-%m-%d}"


def _told(found: x509.Certificate) -> str:
    names = [each.value for each in found.extensions if isinstance(each.value, x509.SubjectAlternativeName)]
    return ", ".join(str(name.value) for each in names for name in each) or "no name"


def _fingerprint(found: x509.Certificate) -> str:
    return found.fingerprint(hashes.SHA256()).hex()


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
