"""What the Hub lists as made for a base model: where to look, and nothing that counts."""

from __future__ import annotations

from typing import Any

from registry.reference import is_repo_id
from registry.remote._hub_errors import asking, nonsense
from registry.remote._hub_session import bound, held_session

_LONGEST_LISTING = 16 << 20


def find_lines(base: str, *, limit: int) -> list[str]:
    """Return repositories whose cards say that they hold artifacts for a base model.

    Args:
        base: Repository of the base, ``namespace/name``.
        limit: Most of the base's own namespace, and most of all others.

    Returns:
        Ids, those of the base's own namespace first: others cannot crowd them out. What is no id of
        a repository is left out.

    Raises:
        HubError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    def look(answer: Any) -> None:
        expected = f"a listing of at most {_LONGEST_LISTING:,} bytes"
        bound(answer, _LONGEST_LISTING, lambda: nonsense(base, expected, "more"))

    filters = [f"base_model:adapter:{base}", "safelatch"]
    found: list[Any] = []
    with asking(f"what is made for {base}", base), held_session(look) as headers:
        api = HfApi(headers=headers)
        for author in (base.partition("/")[0], None):
            listed = api.list_models(author=author, filter=filters, limit=limit)
            found += [model.id for model in listed]
    ids = [one for one in found if isinstance(one, str) and is_repo_id(one)]
    return list(dict.fromkeys(ids))
