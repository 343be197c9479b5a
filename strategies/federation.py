"""Who holds what: the data set of a configuration, dealt to the server and the clients."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..configs import Config, ModelSpec
from ..data.arrays import DataError, DataSet, TextSet
from ..data.boxes_data import BoxData, BoxSet
from ..data.describe import ClientTable, client_table
from ..data.inputs import Inputs
from ..data.partition import Partition, partition
from ..data.registry import load_dataset
from ..data.roles import Roles, assign_roles, holdout, server_share
from ..models import FlatModel, ModelError
from .box_samples import BoxSamples
from .network import network
from .samples import Samples, TextSamples
from .seeds import derive

Index = NDArray[np.int64]
_DIFFICULTY = "difficulty"


@dataclass(frozen=True)
class Federation:
    """The data set and its division: held by the server (labelled), held out for validation, dealt to clients.

    All indices count the data set's training samples. Clients are named client-0, client-1, ...
    """

    config: Config
    dataset: DataSet | BoxSet
    server: Index
    validation: Index
    clients: Partition
    site: tuple[str, int] | None = None
    """Where the whole data set is one client's: its name, and its place in the order of all."""

    @classmethod
    def alone(cls, config: Config, name: str, number: int) -> "Federation":
        """Read the data that a client brought with it; all of it is the client's. Raises DataError."""
        dataset = load_dataset(config.data.dataset, config.data.root, **config.data.options)
        everything = np.arange(len(dataset.train))
        none = everything[:0]
        return cls(config, dataset, none, none, Partition(np.array([0, len(everything)]), everything), (name, number))

    @classmethod
    def undealt(cls, config: Config) -> "Federation":
        """Read the data set and deal nothing: enough to measure on the server's samples. Raises DataError."""
        dataset, validation, rest = _read(config)
        return cls(config, dataset, rest[:0], validation, Partition.empty())

    @classmethod
    def hosting(cls, config: Config) -> "Federation":
        """Read the data set of a server whose clients bring theirs: what it holds itself. Raises DataError."""
        dataset, validation, rest = _read(config)
        held, _ = _server_part(config, dataset, rest)
        return cls(config, dataset, rest[held], validation, Partition.empty())

    @classmethod
    def prepare(cls, config: Config) -> "Federation":
        """Read the data set and deal it, as a pure function of the configuration. Raises DataError."""
        data = config.data
        dataset, validation, rest = _read(config)
        if isinstance(dataset, TextSet) and config.train.view != "none":
            raise DataError(
                f"train.view is {config.train.view}, but {dataset.name} holds sentences, of which there are no views; "
                "give train.view=none"
            )
        labels = dataset.train.labels
        held, kept = _server_part(config, dataset, rest)
        dealt = rest[kept]
        attributes = {name: values[dealt] for name, values in dataset.train.attributes.items()}
        dealing = data.partition.model_dump()
        if dealing.pop("expert") is not None and data.partition.kind == "inc":
            dealing["key"] = _DIFFICULTY
            attributes[_DIFFICULTY] = cls(config, dataset, dealt, validation, Partition.empty()).hardness(dealt)
        parts = partition(labels[dealt], attributes, seed=derive(config.seed, "partition"), **dealing)
        federation = cls(config, dataset, rest[held], validation, parts.mapped(dealt))
        federation.check_names("data.labels.by_client", data.labels.by_client)
        federation.check_names("model.by_client", config.model.by_client)
        return federation

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def boxed(self) -> bool:
        """Whether the images have boxes, not one class each."""
        return not isinstance(self.dataset, DataSet)

    @staticmethod
    def name(number: int) -> str:
        """Give the name of client `number` (from 0)."""
        return f"client-{number}"

    @staticmethod
    def deals_to(name: str) -> bool:
        """Say whether a client is called as those are to whom data are dealt."""
        head, _, tail = name.partition("-")
        return head == "client" and tail.isdigit()

    def number(self, name: str) -> int:
        """Give the number of a client by its name. Raises KeyError."""
        if self.site is not None:
            if name != self.site[0]:
                raise KeyError(name)
            return self.site[1]
        if not self.deals_to(name) or int(name.removeprefix("client-")) >= len(self):
            raise KeyError(name)
        return int(name.removeprefix("client-"))

    def _held(self, name: str) -> Index:
        """Give the places of a client's samples."""
        return self.clients.indices(0 if self.site is not None else self.number(name))

    def check_names(self, key: str, names: Iterable[str]) -> None:
        """Raise DataError for names under a key of the configuration that no client has."""
        known = {self.name(number) for number in range(len(self))}
        if unknown := sorted(set(names) - known):
            raise DataError(
                f"{key} names {', '.join(unknown)}; the clients are {self.name(0)} to {self.name(len(self) - 1)}"
            )

    def roles(self, name: str) -> Roles:
        """Give a client's labelled, unlabelled and test indices: a pure function of (seed, client name)."""
        data, labels = self.config.data, self.config.data.labels
        share = labels.by_client.get(name, labels.share)
        return assign_roles(
            self._held(name),
            self.dataset.train.labels,
            client=name,
            seed=self.config.seed,
            test_share=data.test_share,
            label_share=None if labels.count is not None and name not in labels.by_client else share,
            label_count=None if name in labels.by_client else labels.count,
            stratified=labels.stratified,
        )

    def table(self) -> ClientTable:
        """Count every client's labelled, unlabelled and test samples by class."""
        roles = [self.roles(self.name(number)) for number in range(len(self))]
        return client_table(self.clients, self.dataset.train.labels, len(self.dataset.classes), roles)

    def all_labelled(self) -> bool:
        """Say whether no client has unlabelled samples."""
        labels = self.config.data.labels
        if labels.count is None and {labels.share, *labels.by_client.values()} == {1.0}:
            return True  # told without a look at 100,000 clients
        return not any(len(self.roles(self.name(number)).unlabelled) for number in range(len(self)))

    def samples(self, index: Index, device: torch.device, labelled: bool = True) -> Samples:
        """Give training samples as tensors."""
        return self._samples("train", index, device, labelled)

    def server_samples(self, device: torch.device) -> Samples:
        """Give the samples on which the server evaluates: the test split, or the held-out share of train."""
        if self.config.evaluate.split == "validation":
            return self.samples(self.validation, device)
        return self._samples("test", np.arange(len(self.dataset.test)), device, True)

    def client_test(self, name: str, device: torch.device) -> Samples:
        """Give what a client is measured on: its own test share, or its domain's part of the server's samples."""
        return self._samples(*self.client_test_index(name), device, True)

    def client_test_index(self, name: str) -> tuple[Literal["train", "test"], Index]:
        """Give the split and the places in it of what a client is measured on. Raises DataError without a domain."""
        if self.config.evaluate.client_split == "own":
            return "train", self.roles(name).test
        split: Literal["train", "test"] = "train" if self.config.evaluate.split == "validation" else "test"
        part, key = getattr(self.dataset, split), self.config.data.partition.key
        if key is None or key not in part.attributes:
            raise DataError(f"evaluate.client_split=domain needs the attribute {key!r} in the data that is measured on")
        held = np.unique(self.dataset.train.attributes[key][self._held(name)].astype(str))
        rows = self.validation if split == "train" else np.arange(len(part))
        return split, rows[np.isin(part.attributes[key][rows].astype(str), held)]

    def pooled_labelled(self) -> Index:
        """Give every client's labelled samples, in ascending order."""
        return np.sort(np.concatenate([self.server[:0], *(roles.labelled for roles in self._all_roles())]))

    def pooled_unlabelled(self) -> Index:
        """Give every client's unlabelled samples, in ascending order."""
        return np.sort(np.concatenate([self.server[:0], *(roles.unlabelled for roles in self._all_roles())]))

    def pooled(self) -> Index:
        """Give every sample that clients train on, and the server's own, in ascending order.

        The clients' own test samples stay out, so a centralised model is measured on the same footing.
        """
        held = (part for roles in self._all_roles() for part in (roles.labelled, roles.unlabelled))
        return np.sort(np.concatenate([self.server, *held]))

    def _all_roles(self) -> Iterator[Roles]:
        return map(self.roles, map(self.name, range(len(self))))

    def _samples(self, split: Literal["train", "test"], index: Index, device: torch.device, labelled: bool) -> Samples:
        """Give part of a split as tensors; images with boxes carry the name of their domain, where one is known."""
        data = self.dataset
        if isinstance(data, DataSet):
            part = getattr(data, split)
            images, labels = part.images[index], part.labels[index]
            kind = TextSamples if isinstance(data, TextSet) else Samples
            return kind(images, labels, mean=data.mean, std=data.std, device=device, labelled=labelled)
        boxes: BoxData = getattr(data, split).take(index)
        key = self.config.data.partition.key
        domains = (
            [str(value) for value in boxes.attributes[key]] if key is not None and key in boxes.attributes else None
        )
        return BoxSamples(
            boxes,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            device=device,
            labelled=labelled,
            domains=domains,
        )

    def hardness(self, index: Index) -> NDArray[np.float32]:
        """Give the losses, float32 [n], of training samples under the expert of data.partition."""
        device = torch.device(self.config.engine.device)
        flat = self.model(device)
        _load_expert(flat, "data.partition.expert", self.config.data.partition.expert)
        flat.module.eval()
        losses = self.samples(index, device).difficulty(flat.module, self.config.evaluate.batch_size)
        found: NDArray[np.float32] = losses.cpu().numpy()
        return found

    def spec(self, client: str | None = None) -> ModelSpec:
        """Give the network of a client by its name; without one that of the server."""
        model = self.config.model
        return model.server if client is None else model.of(client, self.number(client))

    def kind(self, client: str | None = None) -> str:
        """Give a text that is the same for all clients that have the same network."""
        return self.spec(client).model_dump_json()

    def model(self, device: torch.device, client: str | None = None) -> FlatModel:
        """Build a client's model, or the server's, with its initial weights, resident on a device. Raises ModelError.

        Clients with the same network begin from the same weights.
        """
        return network(self.config, self.spec(client), Inputs.of(self.dataset), device)


def _read(config: Config) -> tuple[DataSet | BoxSet, NDArray[np.int64], NDArray[np.int64]]:
    """Read the data set; give it, the places of the validation samples, and those of the others."""
    data = config.data
    dataset = load_dataset(data.dataset, data.root, **data.options)
    return dataset, *holdout(dataset.train.labels, data.validation_share, derive(config.seed, "validation"))


def read_expert(key: str, file: str | None) -> dict[str, NDArray[Any]]:
    """Give the arrays of an expert's safetensors file. Raises ModelError, which names the key."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(str(file)))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{key}: {file} cannot be read as safetensors: {error}") from error


def _load_expert(flat: FlatModel, key: str, file: str | None) -> None:
    try:
        flat.load(read_expert(key, file))
    except ModelError as error:
        raise ModelError(f"{key}: {file} does not fit the model: {error}") from error


def _server_part(config: Config, dataset: DataSet | BoxSet, rest: Index) -> tuple[Index, Index]:
    """Divide `rest`, training samples, into what the server holds and what is left, as places in `rest`."""
    held, key = config.data.server, config.data.partition.key
    if held.value is None:
        share = None if held.count is not None else held.share
        return server_share(dataset.train.labels[rest], share, held.count, seed=derive(config.seed, "server"))
    if key is None or key not in dataset.train.attributes:
        known = ", ".join(dataset.train.attributes) or "none"
        raise DataError(f"data.partition.key is {key!r}; the data set {dataset.name} has the attributes {known}")
    values = dataset.train.attributes[key][rest].astype(str)
    mine = values == held.value
    if not mine.any():
        raise DataError(
            f"no sample has {key} {held.value!r} (data.server.value); there are {', '.join(np.unique(values))}"
        )
    return np.flatnonzero(mine), np.flatnonzero(~mine)
