"""AdaBN: the control that shows what normalisation alone does (Li et al. 2017, arXiv 1603.04779).

Rounds 1 to `warmup`: the server trains alone on its labels. Afterwards nobody trains: every client runs its images
through the network once and replaces the running statistics of BatchNorm by those of its own images (algorithm 1 of
the paper, over all its images: statistics.py). With model.buffers=global the server averages the clients' statistics;
what each client has with its own is measured as `personal_*`. Not one weight differs from server-only's.
"""

from pydantic import Field

from ..models import buffer_names
from .contract import (
    Arrays,
    Ask,
    ClientHalf,
    Metrics,
    Plugin,
    Samples,
    ServerHalf,
    Settings,
    Site,
    UnsuitableError,
    Update,
)
from .personal import STUDENT, evaluate_kept, keep
from .server_only import check_labels, train_alone
from .statistics import estimate, norms_of


class AdaBNSettings(Settings):
    """Settings of adabn."""

    warmup: int = Field(5, ge=0, description="rounds in which the server trains alone; the later ones only re-estimate")
    epochs: int | None = Field(
        None, ge=1, description="passes over the server's samples in such a round; null: as server-only"
    )


class AdaBNClient(ClientHalf[AdaBNSettings]):
    """Re-estimates the statistics on the client's own images."""

    def train(self, site: Site) -> Update:
        """Run all images through the network; give back the statistics where they travel."""
        examples = estimate(site.model, [site.labelled, site.unlabelled], site.batch_size)
        keep(site, STUDENT, site.flat)
        return Update(_statistics(site), examples)

    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        """Measure what the server sent, and the same weights with the client's own statistics."""
        return site.evaluate(samples) | evaluate_kept(site, samples)


class AdaBNServer(ServerHalf[AdaBNSettings]):
    """Trains during the warm-up, averages statistics afterwards."""

    def __init__(self, settings: AdaBNSettings, site: Site) -> None:
        super().__init__(settings, site)
        if not norms_of(site.model):
            raise UnsuitableError(
                "adabn re-estimates the statistics of BatchNorm, and this model has none; "
                "choose one that has, such as model.options.norm=batch"
            )
        check_labels("adabn", site)
        self._statistics = _statistics(site)
        self._alone = True

    def first_ask(self) -> int:
        """Give the round after the warm-up."""
        return self.settings.warmup + 1

    def ask(self, round_: int) -> Ask | None:
        """Ask for statistics once the warm-up is over."""
        self._alone = round_ <= self.settings.warmup
        return None if self._alone else Ask(self.weights, "adapt")

    def expects(self) -> Arrays:
        """Expect the statistics."""
        return self._statistics

    def refine(self, site: Site) -> Metrics:
        """Train on the server's labels during the warm-up."""
        if not self._alone:
            return {}
        fit = train_alone(site, self.weights, self.settings.epochs)
        self.weights = site.weights()
        return fit.metrics


def _statistics(site: Site) -> Arrays:
    buffers = set(buffer_names(site.model))
    return {name: value for name, value in site.weights().items() if name in buffers}


plugin = Plugin(AdaBNSettings, AdaBNClient, AdaBNServer, "control: clients re-estimate BatchNorm, nobody trains there")
