"""The list of those who may join, and what an update may change."""

import asyncio
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from grpc_for_tests import Clients, Echo, grid_for, identity_of

from fedbox.client.grpc_line import RefusedError, ask_status
from fedbox.configs.tls import read_identity
from fedbox.server import certificates
from fedbox.server.certificates import make_certificates, revoke
from fedbox.server.enrolment import Enrolment, EnrolmentError, read_entries
from fedbox.strategies.base import identity
from fedbox.strategies.contract import RefusedUpdateError, Update
from fedbox.strategies.validate import check_update

PRINT = "ab" * 32


def test_a_list_says_who_may_join_with_which_certificate(tmp_path: Path) -> None:
    path = tmp_path / "clients.txt"
    path.write_text(f"# ours\nclient-10\nclient-2 {PRINT}  # the new one\nclient-3 {PRINT} revoked\n\n")
    found = Enrolment(path)
    assert found.names == ["client-2", "client-10"]
    assert found.refusal("client-10", PRINT) is None
    assert found.refusal("client-2", PRINT) is None
    assert "not the one on the list" in (found.refusal("client-2", "cd" * 32) or "")
    assert found.refusal("client-3", PRINT) == "client-3 is revoked"
    assert found.refusal("x", PRINT) == "x is not on the list of clients"
    assert not found.refresh()


def test_all_faults_of_a_list_are_told_and_a_running_server_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "clients.txt"
    path.write_text("a\n")
    found = Enrolment(path)
    path.write_text("a\nb/c\na\nd nonsense\n")
    assert not found.refresh()
    with pytest.raises(EnrolmentError) as caught:
        found.refresh()
    assert [f"line {n}" in str(caught.value) for n in (1, 2, 3, 4)] == [False, True, True, True]
    assert found.refusal("a", None) is None
    with pytest.raises(EnrolmentError, match="names no client"):
        Enrolment(None, [])


def test_a_list_that_is_being_copied_sends_nobody_away(tmp_path: Path) -> None:
    path = tmp_path / "clients.txt"
    path.write_text("a\nb\n")
    found = Enrolment(path)
    with path.open("w") as copy:  # as `scp` does it: first an empty file, then what comes over the net
        assert not found.refresh()
        copy.write("a\n")
        copy.flush()
        assert not found.refresh()
        copy.write("b\nc\n")
    assert [found.refresh() for _ in range(3)] == [False, True, False]
    assert list(found.entries) == ["a", "b", "c"]
    path.write_text("# nobody\n")
    assert not found.refresh()
    with pytest.raises(EnrolmentError, match="names nobody; to shut a client out, write `revoked`"):
        found.refresh()
    assert found.refusal("a", None) is None


def test_certificates_refuse_names_that_are_files_of_their_own(tmp_path: Path) -> None:
    for name in ("server", "ca", "../x", "", "a b"):
        with pytest.raises(EnrolmentError, match="no client can be called"):
            make_certificates(tmp_path / "pki", ["localhost"], [name])
    with pytest.raises(EnrolmentError, match="--server HOST"):
        make_certificates(tmp_path / "pki", [], ["a"])
    make_certificates(tmp_path / "pki", ["localhost"], ["a"])
    revoke(tmp_path / "pki", ["a"])
    before = read_entries(tmp_path / "pki" / "clients.txt")["a"]
    assert before.revoked
    make_certificates(tmp_path / "pki", [], ["a"])  # asked for again: a new certificate, which may join
    after = read_entries(tmp_path / "pki" / "clients.txt")["a"]
    assert not after.revoked
    assert after.fingerprint != before.fingerprint


def test_what_people_wrote_on_the_list_stays(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], ["a", "b"])
    path = tmp_path / "clients.txt"
    head, a, b = path.read_text().splitlines()
    path.write_text(f"{head}\n\n# the ward\n{b}   # Dr. B, room 7\n{a}\n")
    make_certificates(tmp_path, [], ["c"])
    revoke(tmp_path, ["b"])
    *before, last = path.read_text().splitlines()
    assert before == [head, "", "# the ward", f"{b} revoked  # Dr. B, room 7", a]
    assert list(read_entries(path)) == ["b", "a", "c"]
    assert last.startswith("c ")


def _fingerprint(pem: Path) -> str:
    return x509.load_pem_x509_certificate(pem.read_bytes()).fingerprint(hashes.SHA256()).hex()


def test_a_certificate_that_is_there_is_told_of_and_put_on_the_list(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], ["a", "b"])
    (tmp_path / "clients.txt").unlink()
    before = (tmp_path / "a.pem").read_bytes()
    made = make_certificates(tmp_path, ["elsewhere"], ["a"], days=9)
    assert made.written == [tmp_path / "clients.txt"]
    (server, client) = made.kept
    assert re.search(r"server\.pem is there, valid until \d{4}-\d\d-\d\d for localhost, 127.0.0.1; --renew", server)
    assert re.search(r"a\.pem is there, valid until .*, and is on the list now; --renew makes a new one", client)
    assert (tmp_path / "a.pem").read_bytes() == before
    entries = read_entries(tmp_path / "clients.txt")
    assert [entry.line() for entry in entries.values()] == [f"a {_fingerprint(tmp_path / 'a.pem')}"]
    shutil.copy(tmp_path / "b.pem", tmp_path / "a.pem")
    assert "but the list names another" in make_certificates(tmp_path, [], ["a"]).kept[0]


def test_renewed_certificates_are_new_and_the_list_knows_them(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], ["a"])
    before = {name: (tmp_path / name).read_bytes() for name in ("ca.pem", "server.pem", "a.pem", "a.key")}
    assert not make_certificates(tmp_path, [], ["a"], days=9, renew=True).kept
    assert read_entries(tmp_path / "clients.txt")["a"].fingerprint == _fingerprint(tmp_path / "a.pem")
    changed = [name for name, data in before.items() if (tmp_path / name).read_bytes() != data]
    assert changed == ["a.pem", "a.key"]
    lasts = x509.load_pem_x509_certificate((tmp_path / "a.pem").read_bytes()).not_valid_after_utc - datetime.now(UTC)
    assert 8 <= lasts.days <= 9
    assert read_identity(tmp_path / "a.pem", tmp_path / "a.key", tmp_path / "ca.pem", insecure=False)
    make_certificates(tmp_path, ["other"], [], renew=True)
    assert "for other, localhost, 127.0.0.1" in make_certificates(tmp_path, ["other"], []).kept[0]
    with pytest.raises(EnrolmentError, match="add --client NAME or --server HOST"):
        make_certificates(tmp_path, [], [], renew=True)


def test_whoever_asks_for_the_status_may_join_and_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificates(tmp_path, ["localhost"], ["a", "nameless"])
    before, listed = identity_of(tmp_path, "a"), tmp_path / "clients.txt"
    make_certificates(tmp_path, [], ["a"], renew=True)
    (tmp_path / "listed").write_text("a " + read_entries(listed)["a"].fingerprint + "\nnameless\n")
    monkeypatch.setattr(certificates, "_name", lambda _text: x509.Name([]))  # as another authority may issue them
    make_certificates(tmp_path, [], ["nameless"], renew=True)
    nameless = identity_of(tmp_path, "nameless")
    with identity(1), grid_for([], identity_of(tmp_path, "server"), tmp_path / "listed") as grid:
        place = f"localhost:{grid.port}"
        for good in ("a", "server"):
            assert '"nameless"' in asyncio.run(ask_status(place, identity_of(tmp_path, good)))
        for given, told in ((before, "the certificate of a is not the one on the list"), (nameless, " is not on the")):
            with pytest.raises(RefusedError, match=told):
                asyncio.run(ask_status(place, given))
        clients = Clients(place, {"nameless": Echo()}, nameless)
        clients.join()
        assert "the certificate is that of '', not of 'nameless'" in clients.words["nameless"]


def test_names_of_servers_are_written_as_certificates_hold_them(tmp_path: Path) -> None:
    long = f"{'a' * 50}.{'b' * 50}.example.org"
    make_certificates(tmp_path, [long, "m\u00fcnchen.example", "::1", "*.fed.example"], [])
    made = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    wanted = [long, "xn--mnchen-3ya.example", "::1", "*.fed.example", "localhost", "127.0.0.1"]
    assert [str(name.value) for name in names] == wanted
    assert made.subject.rfc4514_string() == "CN=server"


@pytest.mark.parametrize("host", ["a" * 64, "fed.example.org:9091", "https://fed.example.org", "a b", "", "a..b"])
def test_what_is_no_name_of_a_server_is_refused_before_anything_is_written(tmp_path: Path, host: str) -> None:
    with pytest.raises(EnrolmentError, match="is no name or address of a server"):
        make_certificates(tmp_path / "pki", [host], ["a"])
    assert not (tmp_path / "pki").exists()


def test_an_update_that_changes_too_much_is_refused() -> None:
    expects = {"w": np.zeros((2, 2), np.float32), "n": np.ones(1, np.int64)}
    update = Update({"w": np.full((2, 2), 1.5, np.float32), "n": np.asarray([5])}, 3)
    check_update(update, expects, max_change=5.0)  # sqrt(4 * 1.5 ** 2 + 4 ** 2) = 5
    with pytest.raises(RefusedUpdateError, match=r"changes the weights by 5; clients.max_change is 4.99"):
        check_update(update, expects, max_change=4.99)
