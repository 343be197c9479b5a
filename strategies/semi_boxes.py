"""What the semi-supervised detection strategies share: labels at the server, pseudo-labels at the clients.

Rounds 1 to `warmup`: the server trains alone on its labels. Every later round goes clients, aggregate, supervised
update at the server, broadcast. A client trains on the pseudo-labels of its teacher (box_teacher.py), and first on its
own labels where it holds any. It may keep its student and its teacher: they are the personal models, measured beside
the global one as `personal_map50` and `teacher_map50`.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from .box_samples import BoxSamples
from .box_teacher import BoxTeacher, TeacherSettings, box_samples
from .contract import Arrays, Ask, Batch, ClientHalf, Metrics, Samples, ServerHalf, Site, Update
from .personal import STUDENT, TEACHER, evaluate_kept, keep, kept
from .server_only import check_labels, server_steps
from .site import Fit


class SemiBoxSettings(TeacherSettings):
    """Settings of every strategy of this kind."""

    warmup: int = Field(5, ge=0, description="rounds in which the server trains alone (paper: 50)")
    warmup_epochs: int | None = Field(
        None, ge=1, description="passes over the server's images in a warm-up round; null: as server-only"
    )
    labeller: Literal["local", "global", "persistent"] = Field(
        "local", description="teacher: local average, the broadcast model itself, or an average kept over rounds"
    )
    server_statistics: Literal["train", "frozen"] = Field(
        "frozen", description="running statistics of BatchNorm in the server's update after the warm-up"
    )
    personal: bool = Field(True, description="clients keep their student and teacher on disk, to be measured and shown")


S = TypeVar("S", bound=SemiBoxSettings)


class SemiBoxClient(ClientHalf[S]):
    """Trains a detector on its own labels, if any, and on the pseudo-labels of its teacher."""

    strategy: ClassVar[str] = "this strategy"
    needs = "boxes"
    wants_unlabelled = True

    def train(self, site: Site) -> Update:
        """Train; give back what the strategy shares."""
        samples = box_samples(site.unlabelled, self.strategy)
        parts, adjust = self.parts(site), self.adjust(site)

        def supervised(batch: Batch) -> Tensor:
            return self.loss(site, batch) + self.penalty(site)

        labelled, teacher = self.supervise(site, samples, supervised, parts=parts, adjust=adjust)
        fit = site.fit(
            lambda batch: teacher.loss(batch) + self.penalty(site),
            samples=samples,
            view="none",
            parts=parts,
            adjust=adjust,
            after_step=teacher.follow,
        )
        self.close(site, teacher)
        metrics = {**labelled.metrics, **fit.metrics, **teacher.quality.metrics()}
        return Update(self.shared(site, parts), labelled.examples + fit.examples, metrics)

    def supervise(
        self, site: Site, samples: BoxSamples, loss: Callable[[Batch], Tensor], **fit: Any
    ) -> tuple[Fit, BoxTeacher]:
        """Train on the client's own labels, if any; give what was done, and the teacher of what follows.

        A global labeller is the model that was sent, not what the client's own labels make of it.
        """
        sent = self.teacher(site, samples) if self.settings.labeller == "global" else None
        done = site.fit(loss, **fit)
        return done, sent or self.teacher(site, samples)

    def teacher(self, site: Site, samples: BoxSamples) -> BoxTeacher:
        """Give the teacher of this visit, by the settings: it begins as the model is now, or as it was kept."""
        return BoxTeacher(
            site,
            samples,
            self.settings,
            steps=site.steps(len(samples)),
            still=self.settings.labeller == "global",
            kept=kept(site, TEACHER) if self.settings.labeller == "persistent" else None,
            others=[site.labelled],
        )

    def close(self, site: Site, teacher: BoxTeacher) -> None:
        """Give student and teacher their statistics after the training; keep those that the settings want kept."""
        teacher.settle(site.flat)
        follows = self.settings.personal or self.settings.labeller == "persistent"
        if follows:
            teacher.settle(teacher.flat)
        keep(site, STUDENT, site.flat if self.settings.personal else None)
        keep(site, TEACHER, teacher.flat if follows else None)

    def parts(self, site: Site) -> tuple[str, ...] | None:
        """Give the parts of the model that train and travel in this phase; None for all."""
        return None

    def adjust(self, site: Site) -> Callable[[], None] | None:
        """Give what is to be done to the gradient after every backward pass."""
        return None

    def penalty(self, site: Site) -> Tensor:
        """Give a term that is added to every loss, a scalar."""
        return torch.zeros((), device=site.device)

    def shared(self, site: Site, parts: tuple[str, ...] | None) -> Arrays:
        """Give the arrays that go back to the server."""
        return site.weights(parts)

    def evaluate(self, site: Site, samples: Samples) -> Metrics:
        """Measure what the server sent and, where they are kept, the client's own student and teacher."""
        metrics = site.evaluate(samples)
        return metrics | evaluate_kept(site, samples) if self.settings.personal else metrics


class SemiBoxServer(ServerHalf[S]):
    """Trains alone at first; then averages what comes back and trains on its labels."""

    strategy: ClassVar[str] = "this strategy"

    def __init__(self, settings: S, site: Site) -> None:
        super().__init__(settings, site)
        check_labels(self.strategy, site)
        self.current = "warm-up"

    def first_ask(self) -> int:
        """Give the round after the warm-up."""
        return self.settings.warmup + 1

    def phase(self, round_: int) -> str:
        """Give the phase of a round: warm-up or full."""
        return "warm-up" if round_ <= self.settings.warmup else "full"

    def ask(self, round_: int) -> Ask | None:
        """Ask for training in the round's phase; nothing while the server warms up."""
        self.current = self.phase(round_)
        return None if self.current == "warm-up" else Ask(self.weights, self.current)

    def refine(self, site: Site) -> Metrics:
        """Train on the server's labels."""
        settings = self.settings
        site.load(self.weights)

        def loss(batch: Batch) -> Tensor:
            return site.labelled.loss(site.model, batch) + self.penalty(site)

        alone = self.current == "warm-up"
        fit = site.fit(
            loss,
            epochs=settings.warmup_epochs if alone else None,
            steps=server_steps(site, settings.warmup_epochs) if alone else None,
            parts=self.parts(),
            freeze_statistics=settings.server_statistics == "frozen" and not alone,
        )
        self.weights = site.weights()
        return {f"server_{name}": value for name, value in fit.metrics.items()}

    def parts(self) -> tuple[str, ...] | None:
        """Give the parts that the server trains in this round; None for all."""
        return None

    def penalty(self, site: Site) -> Tensor:
        """Give a term that is added to the server's loss, a scalar."""
        return torch.zeros((), device=site.device)
