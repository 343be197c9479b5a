"""Named parts of a model, its buffers, and which of its arrays travel between client and server.

A part is a top-level child of the model: `backbone`, `neck`, `head`. A name belongs to the part that its
first segment names (`head.weight` to `head`); a parameter held by the model itself, in no child, is a part of
its own. A model without the children `backbone` and `head` counts as one part, `model`.

The policy says what becomes of the buffers (for instance the running statistics of BatchNorm):
    global: they travel with the parameters of their part and the server averages them;
    local:  they stay with the client, which finds them again in its next round, while the weights of the norm
            layers travel (SiloBN, Andreux et al., 2020);
    drop:   every visit starts from the buffers of the fresh model, and they are thrown away at its end.
"""

from collections.abc import Iterable
from typing import Literal, get_args

from torch import nn

from .errors import ModelError, did_you_mean

BufferPolicy = Literal["global", "local", "drop"]
WHOLE = "model"
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parts(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the state-dict names of the parameters of each part, parts in the order of their definition.

    Raises ModelError when one tensor is registered under two names, for then no part owns it.
    """
    _refuse_tied(model)
    found: dict[str, list[str]] = {name: [] for name in part_names(model)}
    for name, _ in model.named_parameters():
        found[_part_of(name, found)].append(name)
    return {part: tuple(names) for part, names in found.items()}


def part_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the parts in the order of their definition."""
    children = [name for name, _ in model.named_children()]
    if not {"backbone", "head"} <= set(children):
        return (WHOLE,)
    own = [name for name, _ in model.named_parameters(recurse=False)]
    own += [name for name, _ in model.named_buffers(recurse=False)]
    return (*children, *own)


def buffer_names(model: nn.Module) -> tuple[str, ...]:
    """Return the state-dict names of the persistent buffers, in the order of the state dict."""
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return tuple(name for name in model.state_dict() if name in buffers)


def norm_names(model: nn.Module) -> tuple[str, ...]:
    """Return the state-dict names of the parameters of normalisation layers (batch, group, layer, instance norm)."""
    owners = {prefix for prefix, module in model.named_modules() if isinstance(module, _NORMS)}
    return tuple(name for name, _ in model.named_parameters() if name.rpartition(".")[0] in owners)


def shared_names(model: nn.Module, policy: BufferPolicy, parts: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the state-dict names that travel, in the order of the state dict.

    These are the parameters of the chosen parts (None: all) and, when `policy` is "global", their persistent
    buffers. Raises ModelError for an unknown part or policy.
    """
    if policy not in get_args(BufferPolicy):
        raise ModelError(f"buffer policy is {policy!r}.{did_you_mean(str(policy), get_args(BufferPolicy))}")
    _refuse_tied(model)
    known = part_names(model)
    chosen = set(chosen_parts(known, parts))
    travel = {name for name, _ in model.named_parameters()}
    if policy == "global":
        travel |= set(buffer_names(model))
    return tuple(name for name in model.state_dict() if name in travel and _part_of(name, known) in chosen)


def chosen_parts(known: Iterable[str], wanted: Iterable[str] | None) -> tuple[str, ...]:
    """Return the wanted parts (None: all), each once, in the order of `known`; ModelError if unknown."""
    names = tuple(known)
    if wanted is None:
        return names
    if isinstance(wanted, str):
        raise ModelError(f"parts is the text {wanted!r}; wanted a list of names such as [{wanted!r}].")
    asked = set(wanted)
    for name in sorted(asked, key=str):
        if name not in names:
            raise ModelError(f"the model has no part {name!r}.{did_you_mean(name, names)}")
    return tuple(name for name in names if name in asked)


def _part_of(name: str, known: Iterable[str]) -> str:
    first = name.partition(".")[0]
    return first if first in known else WHOLE


def _refuse_tied(model: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        # Two parameter objects can lie on the same memory; an empty one has no address worth comparing.
        key = (value.data_ptr() if value.numel() else 0) or id(value)
        if key in seen:
            raise ModelError(
                f"{type(model).__name__}: {seen[key]!r} and {name!r} are one tensor (tied weights), "
                "which is not supported. Register it once, in one part, and call that module from the other."
            )
        seen[key] = name
