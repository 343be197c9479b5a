"""Certificate files that do not fit are told by option, before anything listens or connects."""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedbox.__main__ import app
from fedbox.configs import ConfigError
from fedbox.configs.tls import doubts, read_identity
from fedbox.server import certificates
from fedbox.server.certificates import make_certificates


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    make_certificates(folder, ["localhost"], ["a"])
    (folder / "junk").write_text("junk\n")
    return folder


@pytest.mark.parametrize(
    ("cert", "key", "ca", "told"),
    [
        ("junk", "server.key", "ca.pem", ["--cert: .*junk is no certificate in PEM form"]),
        ("server.key", "server.key", "junk", ["--cert: .*no certificate", "--ca: .*junk is no certificate"]),
        ("server.pem", "a.key", "ca.pem", ["--key: .*a.key is not the key of .*server.pem"]),
        ("server.pem", "junk", "ca.pem", ["--key: .*junk is no private key in PEM form without a password"]),
        ("server.pem", "server.pem", "ca.pem", ["--key: .*server.pem is no private key"]),
    ],
)
def test_files_that_do_not_fit_are_told_by_option(pki: Path, cert: str, key: str, ca: str, told: list[str]) -> None:
    assert read_identity(pki / "server.pem", pki / "server.key", pki / "ca.pem", insecure=False)
    for each in told:
        with pytest.raises(ConfigError, match=each):
            read_identity(pki / cert, pki / key, pki / ca, insecure=False)


@pytest.mark.parametrize(
    ("begun", "days", "told"),
    [
        (0, 365, ""),
        (30, 10, r"--cert expired on \d{4}-\d\d-\d\d: no line comes about"),
        (0, 3, r"--cert expires on \d{4}-\d\d-\d\d \d\d:\d\d UTC"),
        (-2, 365, r"--cert holds from \d{4}-\d\d-\d\d on, and this machine has \d{4}-\d\d-\d\d"),
    ],
)
def test_certificates_out_of_their_time_are_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: int, days: int, told: str
) -> None:
    make_certificates(tmp_path, ["localhost"], [])

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Then":
            return cls.fromtimestamp((datetime.now(UTC) - timedelta(days=begun)).timestamp(), tz)

    monkeypatch.setattr(certificates, "datetime", Then)
    make_certificates(tmp_path, [], ["a"], days=days)
    found = doubts(read_identity(tmp_path / "a.pem", tmp_path / "a.key", tmp_path / "ca.pem", insecure=False))
    assert len(found) == bool(told)
    assert re.search(told, "".join(found))
    given = [*("--name", "a"), *("--cert", f"{tmp_path}/a.pem"), *("--key", f"{tmp_path}/a.key")]
    words = ["join", "127.0.0.1:1", *given, "--ca", f"{tmp_path}/ca.pem", "--state", str(tmp_path), "--give-up", "0"]
    with monkeypatch.context() as patched:
        patched.setattr("os._exit", lambda _code: None)
        result = CliRunner().invoke(app, words)
    assert ("WARNING the certificate of --cert" in result.stderr) == bool(told)
    assert doubts(None) == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_key_with_a_password_is_told_and_nobody_is_asked_for_it(pki: Path) -> None:
    words = ["openssl", "ec", "-in", str(pki / "a.key"), "-aes256", "-passout", "pass:x", "-out", str(pki / "locked")]
    subprocess.run(words, check=True, capture_output=True)
    with pytest.raises(ConfigError, match=r"--key: .*locked is no private key in PEM form without a password"):
        read_identity(pki / "a.pem", pki / "locked", pki / "ca.pem", insecure=False)
