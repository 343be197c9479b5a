"""The schema of a run: every key that a configuration may hold, its default and its range.

The models are strict and frozen: an unknown key is a fault, a number in quotes is not a number. `docs/configuration.md`
explains the keys in the order in which they stand here.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .block import Block, Count, Share
from .ordering import OrderConfig

# A whole number counts clients, a fraction is a share of them: 1 is one client, 1.0 is all of them.
CountOrShare = Count | Annotated[float, Field(gt=0.0, le=1.0)]


class PartitionConfig(Block):
    """How the training samples are dealt to the clients (`data.partition`)."""

    kind: Literal["iid", "dirichlet", "pathological", "label-k", "natural", "quantity", "inc"] = Field(
        "dirichlet", description="rule by which samples are dealt to clients"
    )
    clients: Count | None = Field(
        20, description="number of clients; null with kind natural: one for each value of the key"
    )
    alpha: Annotated[float, Field(gt=0.0)] = Field(
        0.5, description="dirichlet: concentration; the smaller, the more the clients differ"
    )
    min_size: Annotated[int, Field(ge=0)] = Field(1, description="dirichlet: fewest samples of a client")
    classes_per_client: Count = Field(2, description="pathological: classes that each client holds")
    key: str | None = Field(
        None, description="natural: attribute that names the client (domain, weather, town); inc: a number for expert"
    )
    profile: Literal["linear", "square", "exponential"] = Field(
        "linear", description="quantity: how the sizes grow with the client's number"
    )
    expert: str | None = Field(
        None, description="inc: safetensors file of a model trained on everybody's data, whose losses say what is hard"
    )
    ordered: Share = Field(1.0, description="inc: share of the samples dealt by difficulty; the others by chance")


class LabelsConfig(Block):
    """How many of its samples a client holds labels for (`data.labels`)."""

    share: Share | None = Field(1.0, description="share of the client's training samples that are labelled")
    count: Annotated[int, Field(ge=0)] | None = Field(
        None, description="number of labelled samples a client; takes the place of share"
    )
    stratified: bool = Field(False, description="draw the labels class by class instead of uniformly")
    by_client: dict[str, Share] = Field(
        default_factory=dict, description="share for single clients by name, for example {client-0: 1.0}"
    )


class ServerDataConfig(Block):
    """The labelled samples that the server itself holds (`data.server`)."""

    share: Share | None = Field(0.0, description="share of the training samples held, labelled, by the server")
    count: Annotated[int, Field(ge=0)] | None = Field(None, description="their number; takes the place of share")
    value: str | None = Field(
        None, description="the server holds the samples whose partition.key has this value, for example cloudy"
    )


class DataConfig(Block):
    """The data set, and who holds what of it (`data`)."""

    dataset: str = Field("digits", description="name of a data set, or module:callable")
    root: str | None = Field(None, description="folder or hub name where the data set lies")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the reader")
    partition: PartitionConfig = Field(default_factory=PartitionConfig)
    labels: LabelsConfig = Field(default_factory=LabelsConfig)
    server: ServerDataConfig = Field(default_factory=ServerDataConfig)
    test_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of its samples that a client keeps as its own test set"
    )
    validation_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the training samples held out at the server for tuning"
    )


def named(value: object) -> object:
    """Read `cnn` as {name: cnn}, and a list as a family whose first member is the server's too.

    A list of equal networks is no family: they can be averaged.
    """
    if isinstance(value, list) and value:
        first = value[0] if isinstance(value[0], dict) else {"name": value[0]}
        return first if all(one == value[0] for one in value) else {**first, "family": value}
    return {"name": value} if isinstance(value, str) else value


class ModelSpec(Block):
    """One network of a family (`model.family`)."""

    name: str = Field("cnn", description="name of a model, or module:callable")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the model")


Named = Annotated[ModelSpec, BeforeValidator(named)]


class ModelConfig(Block):
    """The network that the participants train (`model`)."""

    name: str = Field("cnn", description="name of a model, or module:callable")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the model")
    weights: str | None = Field(
        None, description="safetensors file whose arrays the model starts from, such as a run's model.safetensors"
    )
    family: list[Named] = Field(
        default_factory=list, description="different networks: client i has the i-th, begun again at the end"
    )
    by_client: dict[str, Named] = Field(
        default_factory=dict, description="networks of single clients by name, for example {client-0: resnet}"
    )
    buffers: Literal["global", "local", "drop"] = Field(
        "global",
        description="what becomes of normalisation statistics: averaged, kept by the client, thrown away",
    )

    def of(self, client: str, number: int) -> ModelSpec:
        """Give the network of a client by its name and number (from 0)."""
        if client in self.by_client:
            return self.by_client[client]
        return self.family[number % len(self.family)] if self.family else self.server

    @property
    def server(self) -> ModelSpec:
        """The network of the server, and of the clients where all have the same."""
        return ModelSpec(name=self.name, options=self.options)


class TrainConfig(Block):
    """Local training: what one participant does in one round (`train`)."""

    epochs: Count = Field(1, description="passes over the participant's labelled samples a round")
    steps: Count | None = Field(None, description="optimiser steps a round; takes the place of epochs")
    batch_size: Count = Field(32, description="samples an optimiser step; the last batch of an epoch may be smaller")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="rule of an optimiser step")
    lr: Annotated[float, Field(gt=0.0)] = Field(0.1, description="learning rate of the first round")
    lr_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="the learning rate of round r is lr * lr_decay ** (r - 1)"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="course of the learning rate within one round of a participant: as it is, or down to 0"
    )
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="sgd: momentum, afresh in each round")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="pull of the weights towards zero")
    clip_norm: Annotated[float, Field(gt=0.0)] | None = Field(None, description="largest norm of a gradient")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of forward passes; bfloat16: mixed precision (autocast), for GPUs and large models"
    )
    view: Literal["none", "weak", "strong"] = Field("none", description="augmentation of the labelled samples")
    flip: bool = Field(True, description="views may mirror an image; false where left and right differ in meaning")
    view_strength: Share = Field(0.5, description="strength of the strong view")


class ClientsConfig(Block):
    """Who takes part in a round, and how many must succeed (`clients`)."""

    per_round: CountOrShare | None = Field(
        None, description="clients a round: a number, a share such as 0.1, or null for all"
    )
    min_success: CountOrShare = Field(
        0.5, description="fewest clients of the cohort, as number or share, that must succeed"
    )
    timeout: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="seconds after which a round no longer waits for its clients"
    )
    late: Literal["drop", "use"] = Field(
        "drop", description="over gRPC: what becomes of an update that comes after its round was closed"
    )
    staleness: Annotated[float, Field(ge=0.0)] = Field(
        0.5, description="late=use: s rounds late, an update weighs (1 + s) ** -staleness of what its examples would"
    )
    max_change: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="largest Euclidean norm of what an update changes; a larger one is refused"
    )
    selector: str = Field("uniform", description="rule that chooses the cohort: registered name, or module:attribute")
    selector_settings: dict[str, Any] = Field(default_factory=dict, description="settings of the selector")
    order: OrderConfig = Field(default_factory=OrderConfig)


WORKERS_A_GPU = 4
"""How many workers share a GPU, where nothing says otherwise."""


class RayConfig(Block):
    """The Ray cluster and its actors (`engine.ray`); read by `engine.kind: ray` only."""

    address: str | None = Field(
        None, description="cluster to join: host:port, or auto for the one of this machine; null: start one here"
    )
    actors: Count | None = Field(None, description="actors, each with a model; null: as many as there is room for")
    cpus: Annotated[float, Field(gt=0.0)] = Field(1.0, description="cores that an actor claims; it computes on one")
    gpus: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="GPUs that an actor claims; 0.5: two share one; null: none on cpu, a quarter on cuda"
    )

    def claimed(self, device: str) -> float:
        """Give the GPUs that an actor claims for training on a device."""
        if self.gpus is not None:
            return self.gpus
        return 1 / WORKERS_A_GPU if device.startswith("cuda") else 0.0


def stack_word(value: object) -> object:
    """Read YAML's `off`, which is false there, as the word."""
    return "off" if value is False else value


class EngineConfig(Block):
    """Where the clients run (`engine`). It never changes the result; `plain` rounds otherwise in the last digits."""

    kind: Literal["inprocess", "plain", "ray"] = Field(
        "inprocess",
        description="engine that runs the clients; plain: one process, separate tensors, for debugging",
    )
    workers: Count | None = Field(
        None, description="worker processes; null: as many as cores, on GPUs at most 4 each, plain: 1; 1: no process"
    )
    device: str = Field(
        "cpu", description="torch device of the participants: cpu, cuda (workers share all GPUs), cuda:0"
    )
    stack: Annotated[Literal["off", "auto"] | Count, BeforeValidator(stack_word)] = Field(
        "auto",
        description="clients that train in one pass: so many, off for none, auto where it is faster to the same bits",
    )
    cuda_graphs: bool = Field(
        True, description="on a GPU the steps of such clients are recorded and replayed as graphs"
    )
    checkpoint_every: Count | None = Field(
        None, description="rounds between two checkpoints; null: 1, or those of a second where no client keeps state"
    )
    ray: RayConfig = Field(default_factory=RayConfig)


class StopConfig(Block):
    """When a run may end before its last round (`evaluate.stop`)."""

    metric: str = Field("accuracy", description="name of the metric, as in rounds.jsonl")
    target: float | None = Field(None, description="end once the metric reaches this value")
    patience: Count | None = Field(None, description="end after so many evaluations without a better value")


class EvaluateConfig(Block):
    """What is measured, on which samples and how often (`evaluate`)."""

    every: Count = Field(1, description="rounds between two evaluations; the last round is always evaluated")
    split: Literal["test", "validation"] = Field(
        "test", description="the server's samples: the data set's test split, or the held-out share of train"
    )
    clients: Literal["none", "cohort", "all"] = Field(
        "none", description="which clients evaluate on their own test set"
    )
    client_split: Literal["own", "domain"] = Field(
        "own",
        description="a client's test set: its own data.test_share, or the part of the split that has its partition.key",
    )
    personal: Literal["server", "clients"] = Field(
        "server",
        description="where all models are personal: their `accuracy` is that on the server's samples, or on their own",
    )
    batch_size: Count = Field(512, description="samples measured at a time")
    stop: StopConfig = Field(default_factory=StopConfig)


class Config(Block):
    """One run. The top-level keys of a YAML file."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, . _ -")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="everything random follows from it")
    rounds: Count = Field(10, description="rounds of the run")
    strategy: str = Field("fedavg", description="registered name, or module:attribute of a Plugin")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="one block of settings for each strategy"
    )
    data: DataConfig = Field(default_factory=DataConfig)
    model: Annotated[ModelConfig, BeforeValidator(named)] = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    clients: ClientsConfig = Field(default_factory=ClientsConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    track: list[str] | None = Field(
        None,
        description="trackers, registered callbacks or module:attribute, such as [csv, mlflow]; null: tensorboard, "
        "where it is installed",
    )
