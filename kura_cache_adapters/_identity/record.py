"""What is said of one class of embedders: which of its fields decide, and how it differs by role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def never(_: Any) -> bool:  # noqa: ANN401 - an embedder
    """Tell that its roles are told apart."""
    return False


def nothing(_: Any) -> None:  # noqa: ANN401 - an embedder
    """Refuse nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Provider:
    """One class of embedders: each of its fields, private ones too, is named in exactly one of these.

    Names stand between spaces; one with a dot is a path to what an embedder's client holds. One that
    ends in `?` is missing in some of the supported releases; any other that is missing is an error,
    never a silent None.
    """

    name: str = "model_name"
    """The field with the model's name."""
    decides: str = ""
    """Fields that decide every vector; None is as good as absent."""
    queries: str = ""
    """Fields that decide the vectors of queries only."""
    documents: str = ""
    """Fields that decide the vectors of documents only."""
    transport: str = ""
    """Fields that say how vectors are fetched, not which."""
    secrets: str = ""
    """Fields with what is paid or logged in with."""
    addresses: str = ""
    """Where the server's address is: the first of these that is set."""
    regional: str = ""
    """How the hosts of the provider's own regions end: all of them serve the same models."""
    headers: str = ""
    """HTTP headers, of which some may decide: all of these together."""
    parameters: str = ""
    """Parameters of a URL, of which some may decide: all of these together."""
    silent: str = ""
    """Names inside mappings that change no vector."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What a field, or a name inside a mapping, says when it says nothing."""
    roles: tuple[str, ...] = ("query",)
    """The roles that it tells apart, beside "document"."""
    alike: Callable[[Any], bool] = never
    """Whether this embedder is set to embed them all alike."""
    refuses: Callable[[Any], str | None] = nothing
    """Why this embedder cannot be cached, if it cannot."""
    local: str = ""
    """The field with the SentenceTransformer that embeds."""
    encodes: Callable[[Any, Any], tuple[dict[str, Any], dict[str, Any]]] | None = None
    """What a local model's `encode` is called with, for documents and for queries."""
    edits: Callable[[str], str] | None = None
    """What becomes of a text before it is embedded."""
    sends_to_openai: Callable[[str], str] | None = None
    """What is sent of a text that is billed by OpenAI's own tokenizer; None where it is billed otherwise."""
    around: str = ""
    """The field with the embedder that it only adapts or caches."""
    inner: str = ""
    """The field with the embedder whose queries it changes, and nothing else."""

    def placed(self) -> Iterator[str]:
        """Iterate over all fields that this record places, with their question marks."""
        deciding = (self.name, self.decides, self.queries, self.documents, self.transport, self.secrets)
        for names in (*deciding, self.addresses, self.headers, self.parameters):
            yield from (name for name in names.split() if "." not in name)
        yield from (name for name in (self.local, self.around, self.inner) if name)

    @property
    def watched(self) -> tuple[tuple[str, bool], ...]:
        """What may be changed while an embedder is in use, and moves its keys then.

        Each is a field, and whether it is watched for what a client in it holds.
        """
        named = (self.name, self.decides, self.queries, self.documents)
        paths = " ".join((*named, self.addresses, self.headers, self.parameters)).replace("?", "").split()
        fields = {field: bool(inside) for field, _, inside in (path.partition(".") for path in paths)}
        return (*fields.items(),)
