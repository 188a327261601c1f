"""The keys of one identity's texts, role by role."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kura_cache_adapters._identity.keys import RememberedKeys, TextKeys, text_keys
from kura_cache_adapters.identity import DOCUMENT, known_role

if TYPE_CHECKING:
    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters.identity import ModelIdentity, Role


class Keys:
    """Computes keys under one identity; roles that the model does not tell apart share theirs."""

    def __init__(
        self,
        identity: ModelIdentity,
        source: Source,
        *,
        remembered: RememberedKeys | None = None,
        secret: bytes = b"",
    ) -> None:
        """Take what is in each key, and what remembers the keys."""
        self.identity = identity
        self.roles = source.roles
        self._source = source
        self._remembered = remembered
        self._secret = secret
        self._of_role: dict[Role, TextKeys] = {}

    def __call__(self, texts: list[str], role: Role) -> list[bytes]:
        """Return the 32-byte key of each text, as the model embeds it; raise as `known_role` does."""
        keys = self._of_role.get(role) or self._of(known_role(role, self.roles, self._source.name))
        return keys(self._source.edited(texts))

    def under(self, stored: ModelIdentity, texts: list[str]) -> list[bytes]:
        """Return the keys of texts under another identity of the model, for every role."""
        identity = replace(stored, roles=self.identity.roles)
        heads = {identity.head(role) for role in {DOCUMENT, *self.roles}}
        asked = list(dict.fromkeys([*texts, *self._source.edited(texts)]))  # it may have edited otherwise
        return [key for head in heads for key in text_keys(head, asked, self._secret)]

    def _of(self, role: Role) -> TextKeys:
        if role not in self._of_role:
            head = self.identity.head(role)
            made = TextKeys(head, remembered=self._remembered, secret=self._secret)
            self._of_role.setdefault(role, made)  # one for all threads
        return self._of_role[role]
