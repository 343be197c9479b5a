"""Language models of transformers as clients train them, against the library itself, on files as it writes them."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedbox
from fedbox.data import DataError, load_dataset
from fedbox.models import FlatModel, ModelError, build_model, parts
from fedbox.models.hub_text import tokens_of, untied

transformers = pytest.importorskip("transformers", reason="needs fedbox[text]")
datasets = pytest.importorskip("datasets")

GOOD, BAD = ["good", "fine", "great"], ["bad", "poor", "awful"]
LENGTH = 12
EMBEDDINGS = ("word_embeddings.weight", "embed_tokens.weight", "wte.weight")
KINDS = {
    "bert": ("BertForMaskedLM", "BertConfig", {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}),
    "roberta": (
        "RobertaForMaskedLM",
        "RobertaConfig",
        {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "type_vocab_size": 1},
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 40}),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 32, "word_embed_proj_dim": 8},
    ),
}


def save_rows(folder: Path) -> Path:
    """Write reviews as the hub serves them."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=60).tolist()
    text = [f"a film that is {rng.choice(GOOD if y else BAD)} and was" for y in label]
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    for split, part in (("train", slice(0, 40)), ("test", slice(40, 60))):
        rows = datasets.Dataset.from_dict({"sentence": text[part], "label": label[part]}, features=features)
        folder.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def save_model(folder: Path, kind: str) -> Path:
    """Save a small model and its tokenizer, over whole words, as transformers publishes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "that", "is", "and", "was", *GOOD, *BAD]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A" if kind in ("gpt2", "opt") else "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if kind in ("bert", "roberta"):
        special["mask_token"] = "[MASK]"
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(folder)
    model, config, options = KINDS[kind]
    torch.manual_seed(0)
    size = {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    places = {} if kind == "gpt2" else {"max_position_embeddings": 40}
    getattr(transformers, model)(getattr(transformers, config)(**size, **places, **options)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(KINDS))
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, save_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("rows"))


def sentences(data: Any, count: int = 5) -> Tensor:
    """The first test sentences as a network receives them: normalised by the data set's mean and std."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (data.mean, data.std))
    return (torch.from_numpy(data.test.images[:count].copy()).float() / 255 - mean) / std


def reference(folder: Path, kind: str) -> Any:
    return getattr(transformers, KINDS[kind][0]).from_pretrained(folder).eval()


def test_tokens_are_those_of_the_tokenizer(kept: tuple[str, Path], rows: Path) -> None:
    _, folder = kept
    data = load_dataset("hf_text", rows, tokenizer=str(folder), length=LENGTH)
    assert data.shape == (3, 1, LENGTH)
    assert data.classes == ("no", "yes")
    tokens, seen = tokens_of(sentences(data))
    source = datasets.Dataset.from_parquet(str(rows / "test-00000-of-00001.parquet"))
    assert data.test.labels.tolist() == source["label"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for row, text in enumerate(source["sentence"][:5]):
        wanted = tokenizer(text)["input_ids"]
        assert tokens[row, : len(wanted)].tolist() == wanted
        assert seen[row].tolist() == [1] * len(wanted) + [0] * (LENGTH - len(wanted))


def test_large_token_numbers_survive_their_digits() -> None:
    numbers = torch.tensor([[0, 255, 256, 50_256, 65_535, 151_642, 16_777_213]])
    digits = torch.stack([(numbers + 1) >> shift & 255 for shift in (16, 8, 0)], 1).float()[:, :, None]
    assert torch.equal(tokens_of(digits)[0], numbers)


def test_words_have_the_librarys_own_logits(kept: tuple[str, Path], rows: Path) -> None:
    kind, folder = kept
    masked = kind in ("bert", "roberta")
    template = "{sentence} {mask} film" if masked else "{sentence}"
    data = load_dataset("hf_text", rows, tokenizer=str(folder), length=LENGTH, template=template)
    options = {"weights": str(folder), "words": ["bad", "good"]}
    model = build_model("hf_text", shape=data.shape, classes=2, seed=0, options=options).eval()
    tokenizer, library = transformers.AutoTokenizer.from_pretrained(folder), reference(folder, kind)
    texts = datasets.Dataset.from_parquet(str(rows / "test-00000-of-00001.parquet"))["sentence"][:5]
    numbers = [tokenizer.convert_tokens_to_ids(word) for word in options["words"]]
    found = model(sentences(data))
    for row, text in enumerate(texts):  # one by one: no fillings
        ids = tokenizer(text + (" [MASK] film" if masked else ""), return_tensors="pt")["input_ids"]
        place = ids[0].tolist().index(tokenizer.mask_token_id) if masked else -1
        wanted = library(input_ids=ids).logits[0, place, numbers]
        torch.testing.assert_close(found[row], wanted, rtol=1e-4, atol=1e-6)


def test_a_head_stands_on_the_mean_of_the_last_states(kept: tuple[str, Path], rows: Path) -> None:
    _, folder = kept
    data = load_dataset("hf_text", rows, tokenizer=str(folder), length=LENGTH)
    model = build_model("hf_text", shape=data.shape, classes=2, seed=0, options={"weights": str(folder)}).eval()
    assert list(parts(model)) == ["backbone", "head"]
    library: Any = transformers.AutoModel.from_pretrained(folder).eval()
    tokens, seen = tokens_of(sentences(data))
    found = model(sentences(data))
    for row in range(5):
        states = library(input_ids=tokens[row : row + 1, : int(seen[row].sum())]).last_hidden_state
        torch.testing.assert_close(found[row], model.head(states.mean(1))[0], rtol=1e-4, atol=1e-6)


def test_one_weight_used_twice_gets_both_gradients_and_stands_once(kept: tuple[str, Path], rows: Path) -> None:
    kind, folder = kept
    data = load_dataset("hf_text", rows, tokenizer=str(folder), length=LENGTH)
    options = {"weights": str(folder), "words": ["bad", "good"]}
    model: Any = build_model("hf_text", shape=data.shape, classes=2, seed=0, options=options).eval()
    library = reference(folder, kind)
    assert sum(value.numel() for value in model.parameters()) == sum(value.numel() for value in library.parameters())
    flat = FlatModel(copy.deepcopy(model))
    x, y = sentences(data), torch.from_numpy(data.test.labels[:5])
    flat.trainable()
    nn.functional.cross_entropy(flat.module(x), y).backward()
    flat.check()
    tokens, seen = tokens_of(x)
    place = seen.sum(1) - 1
    logits = library(input_ids=tokens, attention_mask=seen).logits[torch.arange(5), place]
    nn.functional.cross_entropy(logits[:, model.words], y).backward()
    embedding = library.get_input_embeddings().weight
    (name,) = (name for name, _ in model.named_parameters() if name.endswith(EMBEDDINGS))
    found = dict(flat.module.named_parameters())[name].grad
    torch.testing.assert_close(found, embedding.grad, rtol=1e-4, atol=1e-7)
    before = model(x)
    with torch.no_grad():
        flat.flat.add_(0.1)
    assert torch.equal(model(x), before)  # the copy refers to its own weights
    assert not torch.allclose(flat.module(x), before)


def test_untied_leaves_what_is_computed() -> None:
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    two.weight = one.weight
    whole = nn.Sequential(one, two)
    x = torch.randn(2, 3)
    wanted = whole(x)
    assert torch.equal(untied(whole)(x), wanted)
    assert [name for name, _ in whole.named_parameters(remove_duplicate=False)] == ["0.weight", "0.bias", "1.bias"]


@pytest.mark.parametrize(
    ("strategy", "precision"), [("onebyte", "float32"), ("fedavg", "float32"), ("onebyte", "bfloat16")]
)
def test_a_federation_trains_it_and_every_worker_gives_the_same(
    tmp_path: Path, rows: Path, strategy: str, precision: str
) -> None:
    folder = save_model(tmp_path / "opt", "opt")
    changes: dict[str, Any] = {
        "data.root": str(rows),
        "data.options.tokenizer": str(folder),
        "data.options.length": 12,
        "data.options.template": "{sentence}",
        "data.options.test_split": "test",
        "data.partition.clients": 3,
        "clients.per_round": 2,
        "model.options": {"weights": str(folder), "words": ["bad", "good"]},
        "strategy": strategy,
        "train.precision": precision,
        "rounds": 3,
        "evaluate.every": 1,
    }
    results = [
        fedbox.run("onebyte-hub", out=tmp_path / f"{workers}", quiet=True, workers=workers, **changes)
        for workers in (1, 2)
    ]
    hashes = {result.summary["model_sha256"] for result in results}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "needs the option tokenizer"),
        ({"tokenizer": "no/such-tokenizer"}, "could not be had"),
        ({"template": "{sentence} {mask}"}, r"has \{mask\}, and the tokenizer has no mask token"),
        ({"template": "{sentense}"}, "'sentense', allowed are label, mask, sentence"),
        ({"template": "It was"}, "must name columns"),
        ({"template": "{sentence"}, "cannot be read"),
        ({"label_column": "stars"}, "no column 'stars'"),
    ],
)
def test_data_that_does_not_fit_is_told(
    tmp_path: Path, rows: Path, options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = {} if not options else {"tokenizer": str(save_model(tmp_path / "gpt2", "gpt2"))}
    with pytest.raises(DataError, match=told):
        load_dataset("hf_text", rows, **{**own, **options})


def test_an_empty_text_is_told_by_its_row(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a film", None], "label": [0, 1]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"split 'train', row 1: column 'text' is empty"):
        load_dataset("hf_text", tmp_path, tokenizer=str(save_model(tmp_path / "bert", "bert")))


def test_the_kept_end_of_a_long_text(tmp_path: Path, rows: Path) -> None:
    folder = save_model(tmp_path / "gpt2", "gpt2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for keep, words in (("start", ["[CLS]", "a", "film", "that"]), ("end", ["[CLS]", "film", "film", "film"])):
        data = load_dataset(
            "hf_text", rows, tokenizer=str(folder), length=4, keep=keep, template="{sentence} film film film"
        )
        tokens, _ = tokens_of(sentences(data, 1))
        assert tokenizer.convert_ids_to_tokens(tokens[0].tolist()) == words


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "weights is missing"),
        ({"weights": "HERE", "words": ["bad"]}, "wanted a list of 2"),
        ({"weights": "HERE", "words": ["bad", "superb"]}, "'superb' is unknown"),
        ({"weights": "HERE", "words": ["bad", "good film"]}, "'good film' is 2 tokens"),
        ({"weights": "HERE", "words": ["bad", "bad"]}, "one stands there twice"),
        ({"weights": "HERE", "revision": "main"}, "are a folder. Leave it out"),
    ],
)
def test_a_model_that_does_not_fit_is_told(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    folder = save_model(tmp_path / "bert", "bert")
    given = {key: str(folder) if value == "HERE" else value for key, value in options.items()}
    with pytest.raises(ModelError, match=told):
        build_model("hf_text", shape=(3, 1, 8), classes=2, seed=0, options=given)


def test_other_data_longer_sentences_and_broken_files_are_told(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "bert", "bert")
    options = {"weights": str(folder)}
    with pytest.raises(ModelError, match=r"samples are \(1, 28, 28\)"):
        build_model("hf_text", shape=(1, 28, 28), classes=2, seed=0, options=options)
    with pytest.raises(ModelError, match=r"up to 41 tokens; .* takes at most 40"):
        build_model("hf_text", shape=(3, 1, 41), classes=2, seed=0, options=options)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ModelError, match=r"lack 1\d arrays"):
        build_model("hf_text", shape=(3, 1, 8), classes=2, seed=0, options=options)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be read"):
        build_model("hf_text", shape=(3, 1, 8), classes=2, seed=0, options=options)
