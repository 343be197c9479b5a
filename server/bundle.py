"""Bundles: a finished run as one zip file that others can check, read and run again. The data stays out of it.

Files are stored, not packed, with one fixed date, in one order: the same run gives the same bytes everywhere. When a
bundle is read, its names must be those below, its sizes and SHA-256 those of its manifest; nothing is unpacked to disk.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder import write_asked
from .groups import differences
from .holdings import digest_of
from .records import WHOLE, digest
from .stats import printable

FORMAT, VERSION = "fedbox-bundle", 1
MANIFEST = "manifest.json"
COPIED = ("config.yaml", "model.safetensors", "rounds.jsonl", "summary.json")
FILES = ("README.md", *COPIED, "environment.json")
ELSEWHERE = ("data.root", "model.weights", "clients.order.expert", "data.partition.expert")
"""Keys that name files of the machine that ran it; whoever runs the bundle gives their own."""
FREE = ("name", "engine", *ELSEWHERE)
"""Keys that may be changed when a bundle is run: none of them alters what a run computes from the same files."""
_DATE = (1980, 1, 1, 0, 0, 0)
_MOST = 1_000_000  # bytes of the manifest


class BundleError(RuntimeError):
    """A run cannot be made a bundle, or a bundle is damaged, altered or none."""

    exit_code = 5


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and checked: its files' bytes, and what they say."""

    path: Path
    files: Mapping[str, bytes]
    manifest: Mapping[str, Any]

    def told(self, name: str) -> dict[str, Any]:
        """Give a JSON file of the bundle."""
        return dict(json.loads(self.files[name]))

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        import yaml

        return dict(yaml.safe_load(self.files["config.yaml"].decode()))

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The lines of rounds.jsonl."""
        return [json.loads(line) for line in self.files["rounds.jsonl"].splitlines()]


def export(folder: Path, out: Path | None = None) -> Path:
    """Write the bundle of a finished run to `out` (default: NAME.zip beside the folder); give its path.

    Raises BundleError for a run that has not come to its end, whose model is not the one of its summary, or that lacks
    a file.
    """
    from .model_card import model_card

    files = {name: _own(folder, name) for name in COPIED}
    config, summary = _parsed(folder, files)
    model, status = summary["model_sha256"], summary["status"]
    if status not in WHOLE:
        raise BundleError(f"{folder}: the run is {status}; bring it to its end with --resume, then export it")
    if _model_digest(files["model.safetensors"], folder / "model.safetensors") != model:
        raise BundleError(f"{folder}: model.safetensors is not the model of summary.json; was it replaced?")
    files["environment.json"] = _json(_environment(folder, config, summary))
    files["README.md"] = model_card(files).encode()
    manifest = {"format": FORMAT, "version": VERSION, "model_sha256": model}
    manifest["files"] = {name: {"bytes": len(files[name]), "sha256": _sha(files[name])} for name in FILES}
    target = out or folder.resolve().parent / f"{folder.resolve().name}.zip"
    if target.is_dir():
        target = target / f"{folder.resolve().name}.zip"
    write_asked(target, _zipped({MANIFEST: _json(manifest), **{name: files[name] for name in FILES}}))
    return target


def _own(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        what = "no run here" if not folder.is_dir() else f"{name} cannot be read ({error.strerror})"
        raise BundleError(f"{folder}: {what}; give the folder of a run that has ended") from error


def _parsed(folder: Path, files: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the configuration and the summary. Raises BundleError for a file that whoever has the bundle cannot read."""
    import yaml

    name = "config.yaml"
    try:
        config = dict(yaml.safe_load(files[name].decode()))
        name = "summary.json"
        summary = dict(json.loads(files[name]))
        summary |= {key: str(summary[key]) for key in ("model_sha256", "status")}
        name = "rounds.jsonl"
        for line in files[name].splitlines():
            dict(json.loads(line))
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise BundleError(f"{folder / name} is damaged: {' '.join(str(error).split())}") from error
    return config, summary


def _model_digest(data: bytes, path: Path) -> str:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return digest(load(data))
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{path} is damaged: {error}") from error


def _environment(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the run ran on, who wrote its strategy, which files it needs, and what its data was like, by hashes."""
    from ..strategies.registry import registered

    point = registered().get(str(config.get("strategy")))
    needs = {}
    for key in ELSEWHERE:
        here: Any = config
        for step in key.split("."):
            here = here.get(step) if isinstance(here, dict) else None
        if here is not None:
            path = Path(str(here))
            needs[key] = {"given": str(here), "sha256": _sha_of(path) if path.is_file() else None}
    return {
        "versions": summary.get("versions", {}),
        "engine": summary.get("engine"),
        "strategy_from": _origin(point.dist if point else None),
        "needs": needs,
        "partition_sha256": digest_of(folder),
    }


def _origin(dist: Any) -> str:
    """Name the package of a strategy, with its version unless it is fedbox, whose version at the run is told above."""
    if dist is None:
        return "a module beside it"
    return "fedbox" if dist.name == "fedbox" else f"{dist.name} {dist.version}"


def _sha_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system, info.external_attr = 3, 0o100644 << 16  # as on Unix, wherever it is written
            archive.writestr(info, data)
    return buffer.getvalue()


def is_bundle(source: str) -> bool:
    """Say whether what `fedbox run` was given is a bundle: a zip file, or a folder with a manifest."""
    path = Path(source)
    return (path.is_file() and (path.suffix == ".zip" or zipfile.is_zipfile(path))) or (path / MANIFEST).is_file()


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, zipped or unpacked, and check every file. Raises BundleError."""
    try:
        if path.is_dir():
            return _checked(path, lambda name, most: _from_folder(path, name, most))
        with zipfile.ZipFile(path) as archive:
            _check_names(path, archive)
            return _checked(path, lambda name, most: _from_zip(archive, name, most))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path} is no whole bundle: {error}; fetch it again") from error


def _check_names(path: Path, archive: zipfile.ZipFile) -> None:
    names = [info.filename for info in archive.infolist()]
    wanted = {MANIFEST, *FILES}
    if strange := sorted(set(names) - wanted):
        raise BundleError(f"{path} is no bundle: it holds {printable(strange[0])[:60]!r}, which no bundle has")
    if len(names) != len(set(names)):
        raise BundleError(f"{path} is no bundle: it holds a name twice")


def _from_zip(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise BundleError(f"{archive.filename} lacks {name}; fetch it again") from error
    if info.file_size > most:
        raise BundleError(f"{archive.filename}: {name} is larger than its manifest says; the bundle was altered")
    with archive.open(info) as file:
        return file.read(most + 1)


def _from_folder(folder: Path, name: str, most: int) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{folder} lacks {name}, or it is a link; unpack the bundle again")
    with path.open("rb") as file:
        return file.read(most + 1)


def _checked(path: Path, read: Any) -> Bundle:
    try:
        manifest = json.loads(read(MANIFEST, _MOST))
        told, format_, version = dict(manifest["files"]), manifest["format"], manifest["version"]
        sizes = {name: int(told[name]["bytes"]) for name in FILES}
        sums = {name: str(told[name]["sha256"]) for name in FILES}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(f"{path}: its {MANIFEST} is damaged ({type(error).__name__}: {error})") from error
    if (format_, version) != (FORMAT, VERSION):
        raise BundleError(f"{path} is a {format_} of version {version}; this fedbox reads {FORMAT} {VERSION}")
    files = {}
    for name in FILES:
        data = read(name, sizes[name])
        if len(data) != sizes[name] or _sha(data) != sums[name]:
            raise BundleError(f"{path}: {name} is not what its manifest says; the bundle was altered or cut off")
        files[name] = data
    bundle = Bundle(path, files, manifest)
    try:
        told_model = bundle.told("summary.json")["model_sha256"]
        bundle.config, bundle.rounds, bundle.told("environment.json")["versions"]
    except Exception as error:  # whatever a made-up file leads to
        raise BundleError(f"{path}: one of its files is damaged ({type(error).__name__}: {error})") from error
    if _model_digest(files["model.safetensors"], path / "model.safetensors") != told_model:
        raise BundleError(f"{path}: its model is not the one of its summary.json; the bundle was altered")
    return bundle


def forbidden(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the keys in which two configurations differ although a bundle is run as it is."""
    changed = differences([before, now])
    return [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in FREE)]
