"""Whose boxes the example pictures of a simulated run show: the global model's, and those of what its clients keep."""

from pathlib import Path

from ..client.state import BUFFER, STATE, StateStore, behind
from ..server.loop import Coordinator
from ..server.pictures import Shown
from ..strategies.exact import Arrays
from ..strategies.personal import STUDENT, TEACHER
from .finished import keepers


def shown(coordinator: Coordinator, folder: Path) -> Shown:
    """Give the models of a run in this process, whose clients' state lies in its folder."""
    store = StateStore(folder / "clients")
    after, weights = coordinator.records.rounds, coordinator.measured()

    def own(client: str) -> dict[str, Arrays]:
        return kept_models(store.read(client, after + 1), weights)

    return Shown(after, weights, keepers(folder), own)


def kept_models(kept: Arrays, shared: Arrays | None) -> dict[str, Arrays]:
    """Give the models among the arrays that a client kept, by kind; `shared` lies beneath, None for personal ones."""
    kinds = {"student": STATE} if shared is None else {"teacher": STATE + TEACHER, "student": STATE + STUDENT}
    buffers = behind(BUFFER, kept)
    models = {kind: behind(prefix, kept) for kind, prefix in kinds.items()}
    return {kind: {**(shared or {}), **buffers, **arrays} for kind, arrays in models.items() if arrays}
