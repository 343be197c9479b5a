"""Certificate files that do not fit are told by option, before anything listens or connects."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fedbox.configs import ConfigError
from fedbox.configs.tls import read_identity
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


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_key_with_a_password_is_told_and_nobody_is_asked_for_it(pki: Path) -> None:
    words = ["openssl", "ec", "-in", str(pki / "a.key"), "-aes256", "-passout", "pass:x", "-out", str(pki / "locked")]
    subprocess.run(words, check=True, capture_output=True)
    with pytest.raises(ConfigError, match=r"--key: .*locked is no private key in PEM form without a password"):
        read_identity(pki / "a.pem", pki / "locked", pki / "ca.pem", insecure=False)
