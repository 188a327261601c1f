"""What is asked of a cached model beside vectors: foresee, explain, add, forget, verify, adopt, and files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kura_cache_adapters._adopt.adopting import adopt
from kura_cache_adapters._adopt.check import TOLERANCE, Check
from kura_cache_adapters._adopt.files import TEXT, VECTOR, import_texts
from kura_cache_adapters._core.drift import TOLERANCE as DRIFTS
from kura_cache_adapters._core.drift import Sampling, drift
from kura_cache_adapters._core.explain import explain
from kura_cache_adapters._core.keys import Keys
from kura_cache_adapters._core.lookup import checked_texts
from kura_cache_adapters._core.plan import plan
from kura_cache_adapters._core.vectors import counted
from kura_cache_adapters._file_operations import FileOperations
from kura_cache_adapters._runtime.loop import hop, run
from kura_cache_adapters.receipts import KEPT_DAYS
from kura_cache_adapters.stores.everywhere import forget_texts

if TYPE_CHECKING:
    import os
    from collections.abc import Coroutine, Iterable

    from kura_cache_adapters._adopt.adopting import Adopted
    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.explain import Explanation
    from kura_cache_adapters._core.plan import Plan
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.options import CacheOptions
    from kura_cache_adapters.protocols import BaseEmbeddingModel
    from kura_cache_adapters.receipts import Drift, Receipt


class Operations(FileOperations):
    """The part of a cached model for who runs it; what it works with is the model's."""

    embedding_model: BaseEmbeddingModel
    options: CacheOptions

    @property
    def model_name(self) -> str:
        """The wrapped model's name."""
        return self._source.name

    def cache_key(self, text: str, *, role: Role = "document") -> str:
        """Compute a text's key: 64 hexadecimal characters."""
        return self._calls.keys()([text], role)[0].hex()

    def missing(self, texts: Iterable[str], *, role: Role = "document") -> list[int]:
        """Return the positions of the texts that embedding would send to the model now.

        Nothing is embedded; a repeated text is named once.
        """
        return self._calls.missing(checked_texts(texts), role)

    def contains(self, texts: Iterable[str], *, role: Role = "document") -> list[bool]:
        """Tell of each text whether its vector is in the cache; nothing is embedded."""
        return self._calls.contains(checked_texts(texts), role)

    def plan(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        price_per_million: float | None = None,
    ) -> Plan:
        """Tell what embedding texts would find, send and cost now; the model is not touched.

        Args:
            texts: as `embed` takes them.
            role: what they would be embedded as.
            price_per_million: of tokens, in any currency; without, the package genai-prices (the extra
                `prices`) is asked for the model's price at its address, in US dollars.

        Returns:
            Counts. Tokens are known where the model counts them (`protocols.CountsTokens`), the cost
            where tokens and price are; what is not known is None.

        Raises:
            ValueError: a role that the model does not know.

        """
        return plan(self._source, self._calls, checked_texts(texts), role, price_per_million)

    def explain(self, text: str, *, role: Role = "document") -> Explanation:
        """Tell whether a text is in the cache and, of a miss, which stored identity comes nearest.

        Raises:
            ValueError: a role that the model does not know.
            OSError: and whatever else the store raises: this is for whoever asks about it.

        """
        (text,), secret = checked_texts([text]), self.options.secret_bytes
        keys_of = partial(Keys, source=self._source, secret=secret)
        return explain(self._calls.keys(), keys_of, self._store, text, role)

    def add(
        self,
        texts: Iterable[str],
        vectors: Any,  # noqa: ANN401 - as a model answers
        *,
        role: Role = "document",
        replace: bool = False,
    ) -> int:
        """Store vectors that this model has returned elsewhere.

        Args:
            texts: as `embed` takes them.
            vectors: one for each text, in any form in which a model may answer.
            role: what the texts were embedded as.
            replace: put them in the place of known ones; without, a known text keeps its vector.

        Returns:
            How many were stored, a repeated text once; none without a cache, or where the store fails.

        Raises:
            VectorCountError: not one vector for each text.
            DimensionMismatchError: they make no matrix, or are of another dimension than what is stored.
            ValueError: NaN or infinity among them; a role that the model does not know.

        """
        texts = checked_texts(texts)
        return self._calls.add(texts, counted(vectors, len(texts), self.model_name), role, replace=replace)

    def forget(self, texts: Iterable[str], *, days: float = KEPT_DAYS) -> Receipt:
        """Forget texts in every role, under every stored identity of this model's name; see `Cache.forget`.

        Whatever the parameters of its cached vectors are, and in every tier. Not reached is what was
        stored under another model's name, under another `key_secret`, as a role that the model does not
        tell apart any more, or where this cache does not lead: other machines' caches, and backups, which
        are hidden for so many days where they are put back.

        Args:
            texts: as `embed` takes them.
            days: how long tombstones stand against copies, backups and machines that were away.

        Returns:
            What was there, what was done, and what could not be reached.

        """
        texts, keys = checked_texts(texts), self._calls.keys()
        return forget_texts(self._store, texts, keys.identity, keys.under, days=days)

    async def verify(self, texts: Iterable[str], *, sample: int = 100, tolerance: float = DRIFTS) -> Drift:
        """Embed a sample of the cached texts again, in every role, and compare; nothing is stored.

        Models answer a little differently from call to call: what is compared are distributions.

        Args:
            texts: as `embed` takes them; a key holds no text. Those that are not cached are left out.
            sample: how many are embedded again in each role, chosen by chance.
            tolerance: the cosine distance at the median beyond which it is said to be another model.

        What the model or the store raises arrives as it is.

        """
        return await hop(self._drift(texts, sample, tolerance))

    def verify_sync(self, texts: Iterable[str], *, sample: int = 100, tolerance: float = DRIFTS) -> Drift:
        """Compare from sync code, see `verify`."""
        return run(self._drift(texts, sample, tolerance))

    def _drift(self, texts: Iterable[str], sample: int, tolerance: float) -> Coroutine[Any, Any, Drift]:
        sampling = Sampling(checked_texts(texts), sample, tolerance, self.options.chunk_size)
        return drift(self._innermost(), self._calls.keys, self._store, sampling)

    def _innermost(self) -> Source:
        """Return what embeds beneath all caches."""
        inner = self.embedding_model
        return inner._innermost() if isinstance(inner, Operations) else self._source  # noqa: SLF001 - of our own class

    def adopt(
        self,
        old: Any,  # noqa: ANN401 - of a known make
        texts: Iterable[str],
        *,
        role: Role = "document",
        check: int = 0,
        tolerance: float = TOLERANCE,
    ) -> Adopted:
        """Store what an old cache has of texts, without asking the model.

        Args:
            old: LangChain's `CacheBackedEmbeddings`; LlamaIndex's `embeddings_cache`, an embedding that has
                one, or the JSON file of a `SimpleKVStore`; redisvl's `EmbeddingsCache`, asked by this
                model's name; a checkpoint manager with Kura's `summaries`; or a function that returns a
                vector or None for each of a list of texts.
            texts: as the old cache was asked for them.
            role: what they were embedded as. Only `CacheBackedEmbeddings` with a store for queries tells
                them from documents.
            check: how many of the first that are found to embed again, before anything is stored.
            tolerance: how far these may be from the old ones, as a part of a vector's length.

        Raises:
            TypeError: no old cache of these.
            ValueError: it does not tell the role from documents, and the model does; the model embeds
                otherwise what is checked.
            DimensionMismatchError: its vectors are of another dimension than what is stored.

        What the old cache raises when it cannot be read arrives as it is.

        """
        return adopt(self, self._source, old, texts, role, Check(self._source, role, check, tolerance))

    def import_file(  # noqa: PLR0913 - each may matter
        self,
        path: str | os.PathLike[str],
        *,
        text: str = TEXT,
        vector: str = VECTOR,
        role: Role = "document",
        check: int = 0,
        tolerance: float = TOLERANCE,
    ) -> Adopted:
        """Store the vectors of a file that this model has made elsewhere, some rows at a time.

        Args:
            path: a `.parquet`, `.jsonl`, `.npz`, `.arrow` or `.feather` file, or the directory of a
                HuggingFace dataset. Vectors may be lists, of fixed size or not, or a matrix, of any floats;
                those of float16 stay rounded.
            text: the column of the texts.
            vector: the column of the vectors.
            role: what the texts were embedded as.
            check: how many of its first texts to embed again, before anything is stored.
            tolerance: how far these may be from the file's, as a part of a vector's length.

        Raises:
            ValueError: another kind of file; no such column; the model embeds what is checked otherwise.
            DimensionMismatchError: its vectors are of another dimension than what is stored.

        """
        checked = Check(self._source, role, check, tolerance)
        return import_texts(self, path, (text, vector), role, checked)
