"""Models of Hugging Face transformers: where their files come from, and how the library is kept quiet about them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ModelError

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # weights, configuration, tokenizer


def folder_of(model: str, weights: str, revision: str | None) -> str:
    """Return the folder of a model: `weights` itself if it is one, else that of the model on the hub, downloaded once.

    Raises ModelError, naming the fedbox model, when neither is so, and for a revision of a folder.
    """
    if Path(weights).is_dir():
        if revision is not None:
            raise ModelError(
                f"{model}: revision is {revision!r}, but the weights {weights!r} are a folder. Leave it out."
            )
        return weights
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(weights, revision=revision, allow_patterns=FILES))
    except Exception as error:
        raise ModelError(
            f"{model}: the weights {weights!r} are no folder here, and could not be had from the Hugging Face hub: "
            f"{type(error).__name__}: {error} Where the hub is out of reach, copy the model's folder and name its path."
        ) from error


@contextmanager
def reading(model: str, weights: str) -> Iterator[None]:
    """Turn what broken files or a configuration of another make bring about into a ModelError of the fedbox model."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{model}: the weights {weights!r} cannot be read: {type(error).__name__}: {error}. Wanted a folder as "
            "transformers' save_pretrained writes it, with config.json and model.safetensors."
        ) from error


class Quiet:
    """Keeps the library's progress bar and its report of what was loaded off the screen; the caller tells errors."""

    def __init__(self, library: Any) -> None:
        self._logging = library.utils.logging

    def __enter__(self) -> None:
        self._level, self._bar = self._logging.get_verbosity(), self._logging.is_progress_bar_enabled()
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._level)
        if self._bar:
            self._logging.enable_progress_bar()
