"""A fast tokenizer made in memory: one token per whitespace word, exact offsets, a chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterable

SPECIALS = ("<pad>", "<unk>", "<end>", "<system>", "<user>", "<assistant>")

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>\n{{ message['content'] }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def build_tokenizer(
    words: Iterable[str], *, chat_template: str | None = TEMPLATE
) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows ``words`` (any iterable of texts: split at whitespace).

    Ids are the specials in the order of ``SPECIALS``, then the words in order of appearance.
    ``<end>`` is the end-of-sequence token. ``chat_template=None`` makes a base model's tokenizer.
    """
    vocabulary = dict.fromkeys([*SPECIALS, *(w for text in words for w in text.split())])
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        chat_template=chat_template,
        padding_side="right",
    )
