"""The list of those who may join, and what an update may change."""

from pathlib import Path

import numpy as np
import pytest

from fedbox.server.certificates import make_certificates, revoke
from fedbox.server.enrolment import Enrolment, EnrolmentError, read_entries
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
    with pytest.raises(EnrolmentError) as caught:
        found.refresh()
    assert [f"line {n}" in str(caught.value) for n in (1, 2, 3, 4)] == [False, True, True, True]
    assert found.refusal("a", None) is None
    with pytest.raises(EnrolmentError, match="names no client"):
        Enrolment(None, [])


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


def test_an_update_that_changes_too_much_is_refused() -> None:
    expects = {"w": np.zeros((2, 2), np.float32), "n": np.ones(1, np.int64)}
    update = Update({"w": np.full((2, 2), 1.5, np.float32), "n": np.asarray([5])}, 3)
    check_update(update, expects, max_change=5.0)  # sqrt(4 * 1.5 ** 2 + 4 ** 2) = 5
    with pytest.raises(RefusedUpdateError, match=r"changes the weights by 5; clients.max_change is 4.99"):
        check_update(update, expects, max_change=4.99)
