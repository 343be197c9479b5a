"""Reference point: a teacher and its student on all images in one place, those of the clients without labels.

What federation costs a semi-supervised detector shows against it. Rounds 1 to `warmup`: the server trains alone on its
labels. Afterwards every step has half a batch of the server's labelled images and half a batch of the clients'
unlabelled ones, labelled by a teacher that follows the student over all rounds (Efficient Teacher, Xu et al. 2023,
arXiv 2302.07577, with its soft band). The global model is the teacher. It needs the pooled data, so it runs in
simulation only.
"""

from collections.abc import Iterator
from typing import ClassVar, Generic, TypeVar

from pydantic import Field
from torch import Tensor

from .box_teacher import BoxTeacher, TeacherSettings, box_samples
from .contract import Arrays, Ask, Batch, ClientHalf, Metrics, Plugin, ServerHalf, Site
from .server_only import check_labels, server_steps, train_alone


class EMATeacherSettings(TeacherSettings):
    """Settings of ema-teacher."""

    warmup: int = Field(5, ge=0, description="rounds in which the server trains on its labels alone")
    warmup_epochs: int | None = Field(
        None, ge=1, description="passes over the server's images in a warm-up round; null: as server-only"
    )
    weight: float = Field(1.0, ge=0, description="weight of the loss on pseudo-labels")


S = TypeVar("S", bound=EMATeacherSettings)


class EMATeacherClient(ClientHalf[EMATeacherSettings]):
    """Rests."""

    needs = "boxes"
    wants_unlabelled = True


class EMATeacherServer(ServerHalf[S], Generic[S]):
    """The clients rest; the server trains a student and its teacher."""

    strategy: ClassVar[str] = "ema-teacher"
    boxes: ClassVar[bool] = True
    """Whether pseudo-labels teach where a box lies, not only what is in it."""
    band: ClassVar[bool] = True
    """Whether a detection below the threshold of a label still counts for something."""

    def __init__(self, settings: S, site: Site) -> None:
        super().__init__(settings, site)
        check_labels(self.strategy, site)
        self._alone = True
        self.student: Arrays = {}

    def first_ask(self) -> None:
        """Say that the clients rest in every round."""

    def ask(self, round_: int) -> Ask | None:
        """Ask nothing of the clients."""
        self._alone = round_ <= self.settings.warmup
        return None

    def refine(self, site: Site) -> Metrics:
        """Train for as many steps as server-only does in a round."""
        if self._alone:
            fit = train_alone(site, self.weights, self.settings.warmup_epochs)
            self.weights = site.weights()
            return fit.metrics
        steps = server_steps(site, None) or 0
        half = max(site.train_config.batch_size // 2, 1)
        site.load(self.student or self.weights)
        teacher = BoxTeacher(
            site,
            box_samples(site.pooled_unlabelled, self.strategy),
            self.settings if self.band else self.settings.model_copy(update={"low": self.settings.high}),
            steps=steps,
            kept=self.weights,
            boxes=self.boxes,
            others=[site.labelled],
        )
        labelled: Iterator[Batch] = site.batches(site.labelled, steps=steps, batch_size=half)

        def loss(batch: Batch) -> Tensor:
            known = site.labelled.loss(site.model, next(labelled))
            return known + self.settings.weight * teacher.loss(batch)

        fit = site.fit(
            loss, samples=teacher.samples, steps=steps, batch_size=half, view="none", after_step=teacher.follow
        )
        teacher.settle(teacher.flat)
        self.student = site.weights()
        self.weights = teacher.flat.state(site.names)
        return fit.metrics | teacher.quality.metrics()

    def state(self) -> Arrays:
        """Give the student."""
        return dict(self.student)

    def restore(self, state: Arrays) -> None:
        """Take the student back."""
        self.student = dict(state)


plugin = Plugin(
    EMATeacherSettings,
    EMATeacherClient,
    EMATeacherServer,
    "reference: a teacher and its student, all images in one place (Efficient Teacher)",
)
