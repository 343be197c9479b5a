"""The checks of the conformance suite: what a strategy must do, and what to do about one that does not."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import load

from ..server import hooks
from ..server.checkpoint import load_checkpoint
from ..server.loop import Coordinator
from ..server.outcome import Result
from ..server.stats import human_bytes
from ..simulations.inprocess import InProcessGrid
from ..simulations.run import Parts
from ..strategies.atomic import as_safetensors
from ..strategies.base import identity
from ..strategies.contract import ServerHalf
from ..strategies.federation import Federation
from ..strategies.halves import unheard
from .subject import Subject, diverged, without_samples
from .suite import Check, CheckFailed, Outcome, outcomes


def _settings(subject: Subject) -> str:
    plugin, where = subject.plugin, f"class {subject.plugin.settings.__name__}"
    missing = [key for key, field in plugin.settings.model_fields.items() if field.is_required()]
    if missing:
        raise CheckFailed(
            f"settings without a default: {', '.join(missing)}", where, "give each a default: a run without it is valid"
        )
    plugin.settings()
    bare = [key for key, field in plugin.settings.model_fields.items() if not field.description]
    if bare:
        raise CheckFailed(
            f"settings without a description: {', '.join(bare)}", where, 'write Field(..., description="...")'
        )
    if not (plugin.summary or plugin.client.__doc__):
        raise CheckFailed("the Plugin has no summary", do="give one line for listings as its fourth argument")
    return f"{len(plugin.settings.model_fields)} settings"


def _hooks(subject: Subject) -> str:
    if problems := unheard(subject.plugin):
        raise CheckFailed("; ".join(problems), do="give it the hook's name; a helper that is meant begins with _")
    return "no name looks like one misspelt"


def _learns(subject: Subject) -> str:
    result = subject.whole
    _no_failures(result)
    _finite(result, "")
    rounds, wanted = len(result.rounds), subject.toy.score
    first, last = result.rounds[0]["metrics"], result.rounds[-1]["metrics"]
    if wanted is not None:
        score = max((last[key] for key in ("accuracy", "client_accuracy") if last.get(key)), default=0.0)
        if score < wanted:
            raise CheckFailed(
                f"after {rounds} rounds the accuracy is {score:.3f}; wanted: {wanted} (guessing gives 0.1)",
                f"the last of: train_loss {', '.join(_told(line['metrics'], 'train_loss') for line in result.rounds)}",
                "look at the sign and the size of each step; are the weights loaded before training, and given back? A "
                "method that needs longer gets more rounds: fedbox check NAME rounds=20",
            )
        return f"accuracy {score:.3f} after {rounds} rounds, guessing gives 0.1"
    lower = [name for name in ("train_loss", "server_train_loss", "loss") if _moved(first, last, name) < 0]
    higher = [name for name in ("map50", "client_map50") if _moved(first, last, name) > 0]
    if not (lower or higher):
        told = ("train_loss", "server_train_loss", "loss", "map50")
        raise CheckFailed(
            "no loss fell and no score rose from the first round to the last: "
            + ", ".join(f"{name} {_told(first, name)} to {_told(last, name)}" for name in told if name in last),
            do="look at the sign and the size of each step; are the weights loaded before training, and given back?",
        )
    name = (higher or lower)[0]
    return f"{name} {first[name]:.3f} to {last[name]:.3f} in {rounds} rounds"


def _moved(first: dict[str, float], last: dict[str, float], name: str) -> float:
    before, after = first.get(name), last.get(name)
    return 0.0 if before is None or after is None else after - before


def _told(metrics: dict[str, float], name: str) -> str:
    value = metrics.get(name)
    return "none" if value is None else f"{value:.3f}"


def _no_failures(result: Result) -> None:
    for record in result.rounds:
        for failure in record["failures"]:
            raise CheckFailed(
                f"{failure['client']} failed in round {record['round']} ({failure['kind']}): {failure['reason']}",
                do="mend the client half; with --workers 1 a debugger reaches it",
            )


def _finite(result: Result, why: str) -> None:
    bad = [name for name, value in result.weights().items() if not np.isfinite(value).all()]
    if bad:
        raise CheckFailed(f"the model holds NaN or infinity{why}: {', '.join(bad[:3])}", "model.safetensors")


def _bytes(subject: Subject) -> str:
    result = subject.whole
    for record in result.rounds:
        seen = subject.traffic.get(record["round"])
        told, weighed = (record["bytes_up"], record["bytes_down"]), (seen.up, seen.down) if seen else (0, 0)
        if told != weighed:
            raise CheckFailed(
                f"the record says {told[0]} bytes up and {told[1]} down, the messages serialised are {weighed[0]} and "
                f"{weighed[1]}",
                f"rounds.jsonl, round {record['round']}",
                "send all that travels in Ask and Update, as plain NumPy arrays",
            )
    rounds, up = len(result.rounds), sum(seen.up for seen in subject.traffic.values())
    arrays = sum(seen.arrays_up for seen in subject.traffic.values())
    return f"{human_bytes(up / rounds)} up a round, {human_bytes(arrays / rounds)} of it arrays"


def _half(subject: Subject) -> ServerHalf[Any]:
    """Give a server half in its initial state."""
    config = subject.config
    with identity(1):
        federation = Federation.prepare(config)
        folder = subject.folder / "fresh"
        grid = InProcessGrid(len(federation), config.model_dump_json(), str(folder))
        return Coordinator(federation, subject.plugin, grid, folder).half


def _state(subject: Subject) -> str:
    do = "give NumPy arrays by name from state(), and take exactly these back in restore()"
    where = f"{subject.plugin.server.__name__}.state"
    half = _half(subject)
    try:
        hooks.state(half)
    except Exception as error:
        raise CheckFailed(f"state() cannot be written: {type(error).__name__}: {error}", where, do) from error
    subject.whole  # noqa: B018  its checkpoint is what is read
    checkpoint = load_checkpoint(subject.folder / "whole" / "checkpoint", subject.config)
    assert checkpoint is not None
    half.weights = checkpoint.weights
    half.restore(dict(checkpoint.state))
    back = load(as_safetensors(hooks.state(half)))
    names = sorted({*checkpoint.state, *back})
    lost = [name for name in names if not _equal(checkpoint.state.get(name), back.get(name))]
    if lost:
        raise CheckFailed(f"what restore() took back, state() gives otherwise: {', '.join(lost[:5])}", where, do)
    return f"{len(back)} arrays beside the weights" if back else "nothing beside the weights"


def _equal(one: Any, other: Any) -> bool:
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(one.tobytes() == other.tobytes())


def _same(result: Result, whole: Result, how: str, do: str) -> str:
    """Hold two runs against each other, round by round: the first that differs is where to look."""
    for ours, theirs in zip(result.rounds, whole.rounds, strict=True):
        number = ours["round"]
        for key in ("phase", "metrics", "clients", "failures", "bytes_up", "bytes_down"):
            if ours[key] != theirs[key]:
                raise CheckFailed(
                    f"{how} the run is another one from round {number} on: {_difference(theirs[key], ours[key])}",
                    f"rounds.jsonl, round {number}, {key}",
                    do,
                )
    if result.summary["model_sha256"] != whole.summary["model_sha256"]:
        raise CheckFailed(f"{how} the final model has another hash, though the records agree", "model.safetensors", do)
    return f"model {str(whole.summary['model_sha256'])[:12]}"


def _difference(one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        key = next(key for key in (*one, *other) if one.get(key) != other.get(key))
        return f"{key}: {_difference(one.get(key), other.get(key))}"
    return f"{one!r} became {other!r}"


def _workers(subject: Subject) -> str:
    do = (
        "keep nothing on self or in globals at the client (site.state is for that), draw from site.generator or "
        "site.derive, and let no total depend on the order in which updates come (ExactSum)"
    )
    whole = subject.whole
    return _same(subject.run_on_workers("workers"), whole, "on two workers", do)


def _resume(subject: Subject) -> str:
    whole, stop = subject.whole, min(subject.toy.stop, subject.config.rounds - 1)
    subject.break_off("resume", after=stop)
    resumed = subject.run("resume", resume=True)
    do = "put into state() and site.state whatever lives from round to round, and take it back in restore()"
    return _same(resumed, whole, f"stopped after round {stop} and resumed,", do)


def _empty(subject: Subject) -> str:
    result = subject.run_early("empty", Parts(plugin=subject.plugin, prepare=without_samples))
    last = Federation.name(result.summary["clients"] - 1)
    for record in result.rounds:
        for failure in record["failures"]:
            lacks = "samples" if failure["client"] == last else "labels"
            raise CheckFailed(
                f"{failure['client']}, which has no {lacks}, failed in round {record['round']}: {failure['reason']}",
                do="a client without labelled samples gives Update(), or what it knows with examples=0",
            )
    _finite(result, " where a client has no samples")
    return f"{last} without samples, the one before it without labels"


def _nan(subject: Subject) -> str:
    victim, spoilt = "client-2", list[int]()
    plugin = diverged(subject.plugin, victim, subject.trial.spoil, spoilt)
    do = "let add() raise RefusedUpdateError for what cannot be used, and finish() work with the clients that are left"
    result = subject.run_early("nan", Parts(plugin=plugin))
    for round_ in spoilt:
        failures = [row for row in result.rounds[round_ - 1]["failures"] if row["client"] == victim]
        if not failures:
            raise CheckFailed(f"the NaN of {victim} was used in round {round_}", "ServerHalf.add", do)
    _finite(result, f" that came from {victim}")
    return f"{victim} refused in {len(spoilt)} rounds" if spoilt else "no client sends arrays that could hold NaN"


CHECKS: tuple[Check, ...] = (
    Check("settings", "settings have defaults and descriptions", _settings),
    Check("hooks", "no name is that of a hook misspelt", _hooks),
    Check("learns", "a loss falls or a score rises on a toy problem", _learns),
    Check("bytes", "the record's bytes are those of the messages serialised", _bytes),
    Check("state", "the server's state survives a checkpoint", _state),
    Check("workers", "two workers give the same model as one", _workers),
    Check("resume", "stopped and resumed it gives the same model", _resume),
    Check("empty", "clients without samples or labels do no harm", _empty),
    Check("nan", "a client that diverges is refused by name, the run goes on", _nan),
)


def check_strategy(subject: Subject) -> Iterator[Outcome]:
    """Make all checks one by one and give each outcome as it is known."""
    return outcomes(subject, CHECKS)
