"""Where an artifact for a base may be, when the registry has none: asked once, vouched for, pulled.

- The sources that the policy names for the base come first, then what the Hub lists as made for the
  repository that the base was added from. That list is what others wrote on their cards: it says
  where to look, nothing else.
- The Hub is asked only where a key is trusted for the base: nothing else could be accepted.
- What nobody who is trusted vouches for is left where it is. Why is told when nothing was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry import moment
from registry.errors import SafelatchError
from registry.reference import Reference, is_repo_id
from registry.remote.hub_search import find_lines
from registry.workflows.pull import pull
from registry.workflows.trust import base_names, counting

if TYPE_CHECKING:
    from registry.artifact.policy import Policy
    from registry.store.catalog import Registry
    from registry.store.values import Base

MOST_REPOSITORIES = 8
"""How many repositories of those that the Hub lists are looked into."""


def discover(registry: Registry, base: Base, policy: Policy | None) -> list[str]:
    """Pull what can be found for ``base`` into ``registry``; return why other finds were refused.

    Args:
        registry: Where to; nothing is done where it cannot be written.
        base: A registered base without an artifact.
        policy: May name sources.
    """
    names = (*base_names(base), str(base.weights))
    sources = () if policy is None else policy.sources(names)
    if registry.is_read_only:
        return [f"{one}: not asked, as the registry cannot be written" for one in sources]
    if not counting(registry.trusted_keys(), names, moment.now()):
        return [f"{one}: not asked, as no key is trusted for {names[0]}" for one in sources]
    refused: list[str] = []
    for source in sources:
        _try(registry, Reference.parse(source), base, refused)
    if registry.versions_for_base(base.weights):
        return refused
    for repo_id in filter(is_repo_id, base_names(base)):
        try:
            listed = find_lines(repo_id, limit=MOST_REPOSITORIES)
        except SafelatchError as error:
            refused.append(error.message)
            continue
        for line in listed:
            _try(registry, Reference("hf", location=line), base, refused)
    return refused


def _try(registry: Registry, reference: Reference, base: Base, refused: list[str]) -> None:
    try:
        pull(registry, reference, base=base.weights)
    except SafelatchError as error:
        refused.append(f"{reference}: {error.message}")
