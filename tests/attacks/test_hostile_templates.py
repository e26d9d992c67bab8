"""Hostile templates, tokenizers and folders, met when a model is loaded and asked.

docs/hostile-inputs.md is the list. What these files raise inside a library is theirs to choose; what
comes out is one error of ours.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.refusals import everything_under, refusal
from support.tiny_chat_model import build_chat_model
from support.tiny_models import llama_config, save_with_transformers
from support.tiny_tokenizer import TEMPLATE, build_tokenizer

from registry.errors import (
    CompatibilityError,
    HostError,
    SafelatchError,
    UnsafeFormatError,
    UsageError,
)
from registry.foreign import refusing
from registry.measure.conversation import conversation_text, prompt_text, token_ids
from registry.measure.generate import answers
from registry.settings import Settings
from registry.workflows.identify import identify
from registry.workflows.open_model import open_model, open_tokenizer

WORDS = ["what is bread water salt"]
RESTORE = "that was published with this model"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = save_with_transformers(tmp_path_factory.mktemp("saved") / "model", llama_config())
    build_tokenizer(WORDS).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def found(folder):
    return identify(folder, settings=Settings.load(), use_cache=False)


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# Chat templates

TEMPLATES = {
    "raises": "{{ raise_exception('no') }}",
    "is cut off": "{% for message in messages %}",
    "names nothing": "{{ nothing.at.all }}",
    "divides by zero": "{{ 1 // 0 }}",
    "adds text to a number": "{{ 1 + 'a' }}",
    "calls itself for ever": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "leaves the sandbox": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "counts too far": "{% for i in range(10**9) %}{% endfor %}",
    "prints millions": "{{ messages[0]['content'] }}{{ 'x' * 2000000 }}",
    "asks for all memory": "{{ 'x' * (10 ** 18) }}",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_template_that(name):
    tokenizer = build_tokenizer(WORDS, chat_template=TEMPLATES[name])
    kind = HostError if name == "asks for all memory" else CompatibilityError
    error = refusal(kind, lambda: prompt_text(tokenizer, "what is bread"), "expected")
    assert kind is HostError or RESTORE in error.hint
    with pytest.raises(kind):
        conversation_text(tokenizer, "what is bread", "salt")


def test_chat_template_that_writes_half_a_surrogate_pair():
    template = TEMPLATE + "{{ '\\ud800' }}"
    tokenizer = build_tokenizer(WORDS, chat_template=template)
    text = prompt_text(tokenizer, "bread")
    error = refusal(CompatibilityError, lambda: token_ids(tokenizer, text), "the tokenizer to turn")
    assert RESTORE in error.hint


# Tokenizers and generation configs


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=None),
        lambda d: d.update(added_tokens=None),
        lambda d: d["model"].update(type="none"),
        lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ],
    ids=["no version", "no list of tokens", "unknown model", "a panic in Rust"],
)
def test_tokenizer_that_the_library_does_not_survive(folder, capfd, change):
    edit(folder / "tokenizer.json", change)
    model = found(folder)
    refusal(UnsafeFormatError, lambda: open_tokenizer(model), "transformers to load the tokenizer")
    capfd.readouterr()  # Rust prints a panic before it raises


def test_tokenizer_that_fails_when_it_is_used(folder, capfd):
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "BAAAAAEAAAA="}
    edit(folder / "tokenizer.json", lambda d: d.update(normalizer=normalizer))
    tokenizer = open_tokenizer(found(folder))
    refusal(
        CompatibilityError, lambda: token_ids(tokenizer, "what is bread"), "PanicException: index"
    )
    capfd.readouterr()


def test_tokenizer_with_tokens_that_the_model_does_not_have():
    tokenizer = build_tokenizer(WORDS)
    model = build_chat_model(tokenizer)
    larger = build_tokenizer([*WORDS, *(f"w{number}" for number in range(5000))])
    said = "rows of the model's embedding, got 5,010"
    refusal(CompatibilityError, lambda: answers(model, larger, ["w4999"]), said)


@pytest.mark.parametrize("token", ["x", 1.5, True, [None], [[1]], -1, {"a": 1}], ids=repr)
def test_generation_config_whose_end_is_no_token(token):
    tokenizer = build_tokenizer(WORDS)
    model = build_chat_model(tokenizer)
    model.generation_config.eos_token_id = token
    refusal(CompatibilityError, lambda: answers(model, tokenizer, ["bread"]), "eos_token_id")


# Folders that transformers does not load


def test_folder_with_weights_under_another_name_alone(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    model = found(folder)
    before = everything_under(folder)
    error = refusal(UsageError, lambda: open_model(model), "got weights.safetensors")
    assert error.hint.endswith(f"weights.safetensors {folder}/model.safetensors")
    assert everything_under(folder) == before


def test_folder_whose_name_is_no_text_is_not_loaded(folder, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.rename(odd)
    model = found(odd)
    refusal(UsageError, lambda: open_model(model), "expected a folder whose path is UTF-8")


@pytest.mark.parametrize(
    "member",
    [
        {"dtype": [1]}, {"pad_token_id": 10**6}, {"hidden_act": "none"}, {"rms_norm_eps": "x"},
        {"intermediate_size": 10**9}, {"attention_dropout": "x"}, {"layer_types": 7},
        {"use_cache": {}}, {"rope_parameters": {"rope_type": "none"}},
    ],
    ids=lambda member: next(iter(member)),
)  # fmt: skip
def test_config_that_transformers_does_not_survive(folder, member):
    edit(folder / "config.json", lambda config: config.update(member))
    with pytest.raises(SafelatchError) as caught:
        open_model(found(folder))
    assert caught.value.hint
    assert str(caught.value).replace("\n", "").isprintable()


# The edge itself


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), HostError), (RecursionError("deep"), UsageError),
        (KeyError("x"), UsageError), (Exception("bare"), UsageError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), UsageError),
        (HostError("ours", hint="h"), HostError), (AssertionError(), UsageError),
    ],
    ids=repr,
)  # fmt: skip
def test_whatever_a_library_raises_is_one_error(error, kind):
    def call():
        with refusing(lambda fact: UsageError(f"expected a, got {fact}.", hint="h")):
            raise error

    refusal(kind, call)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_the_edge(error):
    with pytest.raises(error), refusing(UsageError):
        raise error
