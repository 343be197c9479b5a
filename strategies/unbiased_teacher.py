"""Reference point: Unbiased Teacher (Liu et al. 2021, arXiv 2102.09480) on all images in one place.

Like `ema-teacher`, but a pseudo-label is either a label or nothing (one threshold, no soft band), it teaches what is
there and not where its box lies, and its loss weighs more than that of the labels. The paper's focal loss is left out:
it is tied to its two-stage detector, and the FedSTO paper reports that with it semi-supervised training collapses. Its
teacher follows as those of all strategies here do (`ema` 0.999; the paper: 0.9996).
"""

from pydantic import Field

from .contract import Plugin
from .ema_teacher import EMATeacherClient, EMATeacherServer, EMATeacherSettings


class UnbiasedTeacherSettings(EMATeacherSettings):
    """Settings of unbiased-teacher."""

    high: float = Field(0.7, ge=0, le=1, description="score from which a detection counts as a label; below: nothing")
    low: float = Field(0.0, ge=0, le=0, description="not used: there is no band of uncertainty below high")
    weight: float = Field(4.0, ge=0, description="weight of the loss on pseudo-labels (paper: 4)")


class UnbiasedTeacherServer(EMATeacherServer[UnbiasedTeacherSettings]):
    """A teacher whose pseudo-labels teach classes and objectness alone."""

    strategy = "unbiased-teacher"
    boxes = band = False


plugin = Plugin(
    UnbiasedTeacherSettings,
    EMATeacherClient,
    UnbiasedTeacherServer,
    "reference: Unbiased Teacher on all images in one place (Liu 2021)",
)
