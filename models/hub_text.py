"""A language model of Hugging Face transformers as a text classifier: with a new head, or by the words it would say.

Sentences are those of the data set `hf_text`: [b, 3, 1, length], the digits of token numbers plus one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .classifiers import Shape
from .errors import ModelError
from .hub import Quiet, folder_of, reading

_BASE = 256
_SHIFTED = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")


def hf_text(
    shape: Shape, classes: int, weights: str = "", words: Sequence[str] = (), revision: str | None = None
) -> nn.Module:
    """Build a text classifier from a language model of Hugging Face transformers (extra `text`).

    weights: a folder as transformers' save_pretrained writes it, or a name on the Hugging Face hub, such as
        facebook/opt-125m or FacebookAI/roberta-base, that is downloaded once; revision: branch, tag or commit there.
    words: one for each class, in the order of the classes, each a single token of the model's tokenizer (mostly with a
        space before it: " great"). The logits are then the model's own for these words: a masked model's where the
        sentence has its mask token, a causal one's after the last token. The sentence holds the prompt (`template`
        of the data set). Without words: a new linear head on the mean of the last hidden states.

    Dropout is as in the model's configuration. Weights that are registered twice, as those of the embedding and the
    output often are, stand once. Raises ModelError for weights that cannot be had, read or that leave out a layer, for
    words that are not `classes` single tokens, and without the extra.
    """
    if tuple(shape[:2]) != (3, 1):
        raise ModelError(f"hf_text: the samples are {tuple(shape)}; wanted the data set hf_text's, (3, 1, length).")
    if not weights:
        raise ModelError("hf_text: weights is missing; wanted a folder, or a name on the Hugging Face hub.")
    library = _library()
    folder = folder_of("hf_text", weights, revision)
    with reading("hf_text", weights):
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True)
    places = getattr(config, "max_position_embeddings", None)
    if places is not None and config.model_type in _SHIFTED:  # their first places are for fillings
        places -= config.pad_token_id + 1
    if places is not None and shape[2] > places:
        raise ModelError(f"hf_text: sentences have up to {shape[2]} tokens; {weights!r} takes at most {places}.")
    if not words:
        base: Any = _load(library, "AutoModel", weights, folder)
        if getattr(base, "pooler", None) is not None:
            base.pooler = None  # it is not on the way to the head
        return HeadText(base, classes)
    numbers, mask = _word_numbers(library, weights, folder, words, classes)
    causal = any(name.endswith("ForCausalLM") or name.endswith("LMHeadModel") for name in config.architectures or ())
    kind = "AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"
    return WordText(_load(library, kind, weights, folder), numbers, None if causal else mask)


class HeadText(nn.Module):
    """Tokens [b, 3, 1, length] -> logits [b, classes] by a linear head on the mean of the last hidden states."""

    def __init__(self, base: Any, classes: int) -> None:
        super().__init__()
        self.backbone = untied(base)
        with torch.no_grad():  # some project their states to another width than the configuration's
            width = base(input_ids=torch.ones((1, 1), dtype=torch.int64)).last_hidden_state.shape[-1]
        self.head = nn.Linear(width, classes)
        self.train()  # weights are read into modules in evaluation mode

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; fillings do not enter the mean."""
        tokens, seen = tokens_of(x)
        hidden = self.backbone(input_ids=tokens, attention_mask=seen).last_hidden_state
        weight = seen.unsqueeze(-1).to(hidden.dtype)
        out: Tensor = self.head((hidden * weight).sum(1) / weight.sum(1).clamp_min(1))
        return out


class WordText(nn.Module):
    """Tokens [b, 3, 1, length] -> logits [b, classes], those that a language model gives the classes' words.

    mask: the mask token at whose (first) place a masked model is asked; None: after the last token. A sentence without
    it is asked at its last token.
    """

    words: Tensor

    def __init__(self, whole: nn.Module, words: Sequence[int], mask: int | None) -> None:
        super().__init__()
        self.language = untied(whole)
        self.register_buffer("words", torch.tensor(words), persistent=False)
        self.mask = mask
        self.train()  # weights are read into modules in evaluation mode

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        tokens, seen = tokens_of(x)
        place = (seen.sum(1) - 1).clamp_min(0)
        if self.mask is not None:
            masked = (tokens == self.mask) & (seen > 0)
            place = torch.where(masked.any(1), masked.long().argmax(1), place)
        logits = self.language(input_ids=tokens, attention_mask=seen).logits
        out: Tensor = logits[torch.arange(len(tokens), device=tokens.device), place][:, self.words]
        return out


def tokens_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return token numbers and what is seen, both int64 [b, length], of sentences [b, 3, 1, length].

    A sentence of nothing counts as one of token 0, for a network attends to something.
    """
    digits = x.flatten(2).round().long().clamp(0, _BASE - 1)
    numbers = (digits[:, 0] * _BASE + digits[:, 1]) * _BASE + digits[:, 2]
    seen = (numbers > 0).long()
    seen[:, 0] = 1
    return (numbers - 1).clamp_min(0), seen


def untied(module: nn.Module) -> nn.Module:
    """Let every weight be registered once, under its first name; elsewhere the module refers to the same tensor.

    Gradients of all uses add up in it as before, and copies of the module refer to their own.
    """
    known: set[int] = set()
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is None:
                continue
            if id(value) in known:
                del part._parameters[name]
                part.__dict__[name] = value
            known.add(id(value))
    return module


def _load(library: Any, kind: str, weights: str, folder: str) -> nn.Module:
    with reading("hf_text", weights), Quiet(library):
        model, told = getattr(library, kind).from_pretrained(
            folder, output_loading_info=True, local_files_only=True, use_safetensors=True, dtype="float32"
        )
    missing = sorted(key for key in told["missing_keys"] if "pooler" not in key)
    if missing:
        raise ModelError(
            f"hf_text: the weights {weights!r} lack {len(missing)} arrays that a {type(model).__name__} has: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
        )
    found: nn.Module = model
    return found


def _word_numbers(
    library: Any, weights: str, folder: str, words: Sequence[str], classes: int
) -> tuple[list[int], int | None]:
    if isinstance(words, str) or len(words) != classes:
        raise ModelError(f"hf_text: words is {words!r}; wanted a list of {classes}, one for each class.")
    with reading("hf_text", weights):
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in words}
    bad = {word: len(ids) for word, ids in found.items() if len(ids) != 1 or ids[0] == tokenizer.unk_token_id}
    if bad or len(found) != len(words):
        faults = [f"{word!r} is {f'{count} tokens' if count != 1 else 'unknown'}" for word, count in bad.items()]
        raise ModelError(
            f"hf_text: words must be different single tokens of the tokenizer of {weights!r}; "
            f"{', '.join(faults) or 'one stands there twice'}. Often one has a space before it, as in ' great'."
        )
    return [ids[0] for ids in found.values()], tokenizer.mask_token_id


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(f"model 'hf_text' needs the extra 'text' ({error}): pip install 'fedbox[text]'") from error
    return transformers
