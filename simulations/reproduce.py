"""`fedbox run BUNDLE`: run a bundle again, and say whether the same model came out of it, or what differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configs import Config, ConfigError, Fault
from ..server.bundle import Bundle, forbidden, is_bundle, read_bundle
from ..server.holdings import digest_of
from ..server.outcome import Result
from ..server.records import versions
from .run import check, run_config


@dataclass(frozen=True)
class Reproduction:
    """A bundle's run made again. `same` says whether the models are equal bit for bit, `lines` say it in words."""

    result: Result
    same: bool
    lines: Sequence[str]


def given(source: str, changes: Sequence[str]) -> tuple[Config, Bundle | None]:
    """Give the checked configuration of a source of `fedbox run`, and the bundle where it is one.

    Raises BundleError, and ConfigError for a change that would make a bundle another run.
    """
    if not is_bundle(source):
        return check(source, changes), None
    bundle = read_bundle(Path(source))
    config = check(bundle.config, changes)
    if changed := forbidden(*(one.model_dump(mode="json") for one in (check(bundle.config), config))):
        hint = "a bundle is run as it is; for another run take its config.yaml out: unzip BUNDLE.zip config.yaml"
        raise ConfigError(source, [Fault(key, hint) for key in changed])
    return config, bundle


def carry_out(
    config: Config, bundle: Bundle | None, *, out: Path | None = None, resume: bool = False, progress: bool = True
) -> Reproduction:
    """Run a configuration; where it is a bundle's, compare. Raises what `fedbox.run` raises."""
    result = run_config(config, out=out, resume=resume, progress=progress)
    if bundle is None:
        return Reproduction(result, True, [])
    before, now = bundle.told("summary.json"), result.summary
    if before["model_sha256"] == now["model_sha256"]:
        return Reproduction(result, True, [f"same hash: {now['model_sha256']}"])
    lines = [f"another hash: {before['model_sha256']} in the bundle, {now['model_sha256']} here"]
    lines += apart(bundle, result) or [
        "no version and no platform differs; what is left is the processor, or files that are not the same"
    ]
    return Reproduction(result, False, [*lines, *_first_apart(bundle, result)])


def apart(bundle: Bundle, result: Result | None = None) -> list[str]:
    """Say which versions differ, and after a run (`result`) whether its data and its files were others."""
    environment = bundle.told("environment.json")
    told: Mapping[str, Any] = environment["versions"]
    here = versions()
    lines = [
        f"{name} is {told.get(name, 'not told')} in the bundle, {here.get(name, 'not installed')} here"
        for name in sorted({*told, *here})
        if told.get(name) != here.get(name)
    ]
    if result is None:
        return lines
    wanted, found = environment.get("partition_sha256"), digest_of(result.folder)
    if wanted and found and found != wanted:
        lines.append("the data, or who holds how much of it, is not the same (partition.json)")
    return lines


def _first_apart(bundle: Bundle, result: Result) -> list[str]:
    """Name the first round whose figures differ, and one of them."""
    for before, now in zip(bundle.rounds, result.rounds, strict=False):
        for name in sorted({*before["metrics"], *now["metrics"]}):
            old, new = before["metrics"].get(name), now["metrics"].get(name)
            if old != new:
                return [f"the first round that differs is {before['round']}: {name} {old} in the bundle, {new} here"]
    return ["the figures of all rounds are the same"]
