"""Bundles: the same bytes for the same run, the same model when one is run again, and no bundle that is not whole."""

import hashlib
import io
import json
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plugins_for_tests import run
from safetensors.numpy import load, save
from typer.testing import CliRunner

import fedbox
from fedbox.__main__ import app
from fedbox.server.bundle import FILES, MANIFEST, BundleError, export, is_bundle, read_bundle
from fedbox.server.folder import FolderError
from fedbox.server.records import digest
from fedbox.simulations.reproduce import given as given_source


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> fedbox.Result:
    return run(tmp_path_factory.mktemp("bundle") / "run", rounds=2)


@pytest.fixture(scope="module")
def bundle(done: fedbox.Result) -> Path:
    return export(done.folder)


def _fedbox(*words: str | Path) -> Any:
    before = signal.getsignal(signal.SIGTERM)  # `fedbox run` takes it over
    try:
        return CliRunner().invoke(app, [str(word) for word in words])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(done: fedbox.Result, bundle: Path, tmp_path: Path) -> None:
    assert bundle == done.folder.parent / "run.zip"
    shutil.copytree(done.folder, tmp_path / "elsewhere")
    assert export(tmp_path / "elsewhere", tmp_path / "other.zip").read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(bundle) as archive:
        assert archive.namelist() == [MANIFEST, *FILES]
        assert archive.testzip() is None
    assert str(done.folder).encode() not in bundle.read_bytes()


def test_run_again_zipped_and_unpacked_it_gives_the_same_model(bundle: Path, tmp_path: Path) -> None:
    again = _fedbox("run", bundle, "--workers", "1", "--quiet", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert again.output == f"same hash: {read_bundle(bundle).manifest['model_sha256']}\n"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    (tmp_path / "unpacked" / ".gitattributes").write_text("*.safetensors filter=lfs\n")  # as a hub leaves it
    assert _fedbox("run", tmp_path / "unpacked", "--dry-run", "--quiet").exit_code == 0
    assert given_source(str(tmp_path / "unpacked"), ["name=mine", "engine.workers=2"])[0].name == "mine"


def _with(bundle: Path, out: Path, change: Callable[[dict[str, bytes]], None], **manifest: Any) -> Path:
    """Make a bundle whose manifest fits its changed files, as somebody who wants to deceive would."""
    files = dict(read_bundle(bundle).files)
    change(files)
    told = {"format": "fedbox-bundle", "version": 1, "model_sha256": "", **manifest}
    told["files"] = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {MANIFEST: json.dumps(told).encode(), **files}.items():
            archive.writestr(name, data)
    return out


def test_another_model_ends_with_1_and_names_the_version_and_the_round(bundle: Path, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        arrays = {name: value + np.float32(1) for name, value in load(files["model.safetensors"]).items()}
        files["model.safetensors"] = save(arrays)
        for name in ("summary.json", "environment.json"):
            told = json.loads(files[name])
            told["versions"]["torch"] = "1.0"
            if name == "summary.json":
                told["model_sha256"] = digest(arrays)
            files[name] = json.dumps(told).encode()
        lines = [json.loads(line) for line in files["rounds.jsonl"].splitlines()]
        lines[1]["metrics"]["accuracy"] = 0.125
        files["rounds.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()

    altered = _with(bundle, tmp_path / "other.zip", change)
    again = _fedbox("run", altered, "--workers", "1", "--quiet", "--out", tmp_path / "again")
    assert again.exit_code == 1
    assert "another hash: " in again.output
    assert "torch is 1.0 in the bundle, " in again.output
    assert "the first round that differs is 2: accuracy 0.125 in the bundle, " in again.output


def test_a_bundle_is_run_as_it_is(bundle: Path) -> None:
    with pytest.raises(fedbox.ConfigError, match=r"train\.lr"):
        given_source(str(bundle), ["train.lr=0.5", "engine.workers=1"])


def test_the_card_is_one_that_the_hub_reads(bundle: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(read_bundle(bundle).files["README.md"].decode())
    card.data.to_yaml()
    assert card.data.library_name == "fedbox"
    assert card.data.pipeline_tag == "image-classification"
    told = {one.metric_type: one.metric_value for one in card.data.eval_results or []}
    summary = read_bundle(bundle).told("summary.json")
    assert told["accuracy"] == summary["metrics"]["accuracy"]
    assert summary["model_sha256"] in card.text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_bundle_that_was_cut_off_or_altered_is_refused(bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = bundle.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    broken = tmp_path / "broken.zip"
    if data.draw(st.booleans()):
        broken.write_bytes(whole[:at])
    else:
        broken.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    told = ""
    try:
        read = dict(read_bundle(broken).files)
    except BundleError as error:
        read, told = {}, str(error)
        # A byte that means nothing, such as one of a date, may change: then every file is what it was.
    assert read == dict(read_bundle(bundle).files) or "broken.zip" in told


@pytest.mark.parametrize("name", ["../../evil.py", "/etc/cron.d/evil", "sub/model.safetensors", "evil.py", "c:\\x"])
def test_a_name_that_no_bundle_has_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    bad = tmp_path / "bad.zip"
    shutil.copy(bundle, bad)
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr(name, b"print('evil')")
    answer = _fedbox("run", bad, "--out", tmp_path / "out")
    assert isinstance(answer.exception, BundleError)
    assert answer.exception.exit_code == 5
    assert "which no bundle has" in str(answer.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip"]


def test_other_bad_bundles_are_refused(bundle: Path, tmp_path: Path) -> None:
    def packed(**files: bytes) -> Path:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        path = tmp_path / "made.zip"
        path.write_bytes(buffer.getvalue())
        return path

    manifest = read_bundle(bundle).manifest
    huge = {**read_bundle(bundle).files, "rounds.jsonl": b"\0" * 20_000_000}
    for files, reason in (
        ({}, "lacks manifest.json"),
        ({MANIFEST: b"{}"}, "damaged"),
        ({MANIFEST: json.dumps(manifest).encode()}, "lacks README.md"),
        ({MANIFEST: json.dumps({**manifest, "version": 2}).encode()}, "version 2"),
    ):
        with pytest.raises(BundleError, match=reason):
            read_bundle(packed(**files))
    with pytest.raises(BundleError, match=r"rounds\.jsonl is larger than its manifest says"):
        read_bundle(packed(**{MANIFEST: json.dumps(manifest).encode(), **huge}))
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    config = tmp_path / "unpacked" / "config.yaml"
    config.rename(tmp_path / "elsewhere.yaml")
    config.symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(BundleError, match="it is a link"):
        read_bundle(tmp_path / "unpacked")
    assert not is_bundle("quickstart")


def test_a_run_without_an_end_or_with_another_model_is_not_exported(done: fedbox.Result, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no run here"):
        export(tmp_path / "none")
    shutil.copytree(done.folder, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    with pytest.raises(BundleError, match=r"the run is interrupted; bring it to its end with --resume"):
        export(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**summary, "model_sha256": "00"}))
    with pytest.raises(BundleError, match="is not the model"):
        export(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    for name, more in (("config.yaml", "a: [b\n"), ("config.yaml", None), ("rounds.jsonl", '{"round": 3, "pha')):
        whole = (tmp_path / "run" / name).read_text()
        (tmp_path / "run" / name).write_text("- a\n" if more is None else whole + more)
        with pytest.raises(BundleError, match=rf"{name} is damaged: [^\n]+$"):
            export(tmp_path / "run")
        (tmp_path / "run" / name).write_text(whole)
    assert list(tmp_path.glob("*.zip")) == []
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"run\.zip cannot be written \(Not a directory\); give another --out"):
        export(tmp_path / "run", tmp_path / "file" / "run.zip")
