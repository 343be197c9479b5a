"""Models that a client keeps for itself beside the global one: its student, its teacher; how they are measured.

They lie in the site's state under `student/` and `teacher/`, every parameter and buffer, so they are on disk under the
client's name, survive a restart, and can be taken from there. What is measured on them begins with `personal_` and
`teacher_`.
"""

from ..models import FlatModel
from .contract import Arrays, Metrics, Samples, Site

STUDENT, TEACHER = "student/", "teacher/"
_PREFIX = {STUDENT: "personal_", TEACHER: "teacher_"}


def keep(site: Site, kind: str, model: FlatModel | None) -> None:
    """Put a model into the site's state as `kind`, in the place of what was there; None takes it out."""
    rest = {name: value for name, value in site.state.items() if not name.startswith(kind)}
    arrays = {} if model is None else model.state([*model.module.state_dict()])
    site.state = rest | {kind + name: value for name, value in arrays.items()}


def kept(site: Site, kind: str) -> Arrays:
    """Give the arrays of a kept model, by the names that the model has for them; empty without one."""
    return {name.removeprefix(kind): value for name, value in site.state.items() if name.startswith(kind)}


def evaluate_kept(site: Site, samples: Samples) -> Metrics:
    """Measure the kept models on the samples, each under its prefix. The site's model ends as the last of them."""
    metrics: Metrics = {}
    for kind, prefix in _PREFIX.items():
        arrays = kept(site, kind)
        if arrays:
            site.load(arrays)
            metrics |= {prefix + name: value for name, value in site.evaluate(samples).items()}
    return metrics
