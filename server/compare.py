"""A comparison of runs over seeds: what each row reached, how sure that is, and how it differs from the first row."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .curves import metric_curve, sent_so_far
from .groups import Group, figures
from .paired import alike, holm, paired_t, sign_flip, t_interval
from .records import lower_is_better
from .runs import RunRecord
from .stats import finite, mean_std

NAN = math.nan


@dataclass(frozen=True)
class Target:
    """A value of a metric that runs shall reach."""

    metric: str
    value: float

    def met(self, value: float) -> bool:
        """Say whether a value is as good as the target; losses must fall to it."""
        return value <= self.value if lower_is_better(self.metric) else value >= self.value

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if lower_is_better(self.metric) else '>='} {self.value:g}"


@dataclass(frozen=True)
class Cost:
    """What it took to reach the target: means over the `reached` of `runs` runs that did."""

    reached: int
    runs: int
    rounds: float = NAN
    bytes: float = NAN
    seconds: float = NAN


@dataclass(frozen=True)
class CompareRow:
    """A row of the comparison: figures of the metric at the end of the runs; NaN where there is none.

    `low` and `high` end the 95 % t interval of the mean. The differences are those to the first row, seed by seed;
    their p-values are two-sided, raw and after Holm's correction over all rows but the first.
    """

    label: str
    seeds: tuple[str, ...]
    mean: float
    std: float
    low: float
    high: float
    difference: float = NAN
    difference_low: float = NAN
    difference_high: float = NAN
    p_t: float = NAN
    p_flip: float = NAN
    p_t_holm: float = NAN
    p_flip_holm: float = NAN
    cost: Cost | None = None
    pairs: int = 0
    """Seeds that this row and the first one have in common."""
    alike: str = ""
    """What all its seeds have in common, `model` or `value`; else nothing."""
    missing: int = 0
    """Runs that are in no figure: they failed or broke off, or the metric was not finite at their end."""


def finals(group: Group, metric: str) -> dict[str, float]:
    """Give the metric's final value of each seed whose run came to its end."""
    told = {run.seed: figures(run, metric)["final"] for run in group.runs if run.whole}
    return {seed: value for seed, value in told.items() if math.isfinite(value)}


def compare_rows(
    groups: Sequence[Group], metric: str, target: Target | None = None, wanted: Mapping[str, int] | None = None
) -> list[CompareRow]:
    """Compare every group with the first one. `wanted`: how many runs a label should have, where more than it has."""
    due = [max(len(group.runs), (wanted or {}).get(group.label, 0)) for group in groups]
    first = finals(groups[0], metric) if groups else {}
    told = [finals(group, metric) for group in groups]
    pairs = [seed_differences(values, first) if place else [] for place, values in enumerate(told)]
    p_t, p_flip = [paired_t(one) for one in pairs], [sign_flip(one) for one in pairs]
    corrected = zip(holm(p_t), holm(p_flip), strict=True)
    rows = []
    for place, (group, values, (t_holm, flip_holm)) in enumerate(zip(groups, told, corrected, strict=True)):
        apart = pairs[place]
        rows.append(
            CompareRow(
                group.label,
                tuple(values),
                *mean_std(list(values.values())),
                *t_interval(list(values.values())),
                statistics.fmean(apart) if apart else NAN,
                *t_interval(apart),
                p_t[place],
                p_flip[place],
                t_holm,
                flip_holm,
                cost_of(group, target, due[place]) if target else None,
                len(apart),
                in_common(group, values),
                due[place] - len(values),
            )
        )
    return rows


def in_common(group: Group, values: Mapping[str, float]) -> str:
    """Say whether all seeds, of two at least, ended with the same model or, of two models, on the same value."""
    if len(values) < 2 or not alike(list(values.values())):
        return ""
    models = {run.told("model_sha256") for run in group.runs if run.whole and run.seed in values}
    return "model" if len(models) == 1 and None not in models else "value"


def seed_differences(values: Mapping[str, float], first: Mapping[str, float]) -> list[float]:
    """Give the differences to the first row, for every seed that both have."""
    return [values[seed] - first[seed] for seed in values if seed in first]


def cost_of(group: Group, target: Target, runs: int) -> Cost:
    """Give what the runs of a group needed until a round first met the target; of `runs`, those that failed did not."""
    costs = [cost for run in group.runs if run.whole and (cost := _run_cost(run, target))]
    if not costs:
        return Cost(0, runs)
    means = [mean_std(finite(column))[0] for column in zip(*costs, strict=True)]
    return Cost(len(costs), runs, *means)


def _run_cost(run: RunRecord, target: Target) -> tuple[float, float, float] | None:
    curve, sent = metric_curve(target.metric)(run), sent_so_far(run)
    at = next((round_ for round_, value in curve.items() if target.met(value)), None)
    if at is None:
        return None
    seconds = math.fsum(finite([r.seconds.get("total", NAN) for r in run.rounds if r.round <= at]))
    return float(at), sent[at], seconds
