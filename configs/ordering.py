"""The order in which a client learns its samples: the block `clients.order`."""

from typing import Annotated, Literal

from pydantic import Field

from .block import Block, Count

Pacing = Literal["linear", "quad", "sqrt", "step", "exp", "log"]
Rise = Annotated[float, Field(gt=0.0)]
Begin = Annotated[float, Field(gt=0.0, le=1.0)]


class OrderConfig(Block):
    """The order in which a client learns its labelled samples (`clients.order`)."""

    kind: Literal["none", "curr", "anti", "rand"] = Field(
        "none", description="none: all samples from the first step on; else a growing part: easy, hard or any first"
    )
    score: Literal["G", "L", "LG", "E"] = Field(
        "G",
        description="whose loss says what is hard: the global model's, the client's own last one's, the sum of both, "
        "or an expert's that was trained on everybody's data (privileged: no real federation has it)",
    )
    measure: Literal["loss", "error"] = Field("loss", description="a sample's loss, or 0 where it is right, else 1")
    pacing: Pacing = Field("linear", description="how the part of the samples that is used grows with the steps")
    a: Rise = Field(0.8, description="share of the steps after which all samples are used; above 1: never all")
    b: Begin = Field(0.2, description="share of the samples at the first step")
    least: Count = Field(32, description="samples that are used at least, where the client has so many")
    expert: str | None = Field(None, description="score E: safetensors file of the expert, a run's model.safetensors")
