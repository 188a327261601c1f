"""embed_dataset: a Ray Data dataset with the vectors of its texts, embedded by actors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kura_cache_adapters.errors import require
from kura_cache_adapters.integrations.batches import Embed, reached_from_anywhere

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kura_cache_adapters.options import CacheLike


def embed_dataset(  # noqa: PLR0913 - each may matter
    dataset: Any,  # noqa: ANN401 - a ray.data.Dataset
    make_model: Callable[[], Any],
    store: CacheLike,
    *,
    actors: int | tuple[int, int] = 1,
    batch_size: int = 4096,
    ray_options: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Any:  # noqa: ANN401 - as above
    """Return a dataset with the vectors of its texts, lazy as all of Ray's.

    Args:
        dataset: a `ray.data.Dataset`.
        make_model: a function without parameters that makes the model, in each actor.
        store: a directory that all nodes reach, or a URL.
        actors: how many embed at once, or the least and the most of them.
        batch_size: rows in a call; batches are Arrow's, so that a row without a text has a null.
        ray_options: what else `map_batches` takes, as `{"num_gpus": 1}`.
        **keywords: what else `Embed` takes: `column`, `out`, `role`, ...

    Raises:
        MissingExtraError: Ray is not installed.
        TypeError: as `Embed` raises it.

    """
    pool = require("ray.data", extra="ray").ActorPoolStrategy
    Embed(make_model, store, **keywords)  # to refuse here what it refuses, and not in a worker
    least, most = (actors, actors) if isinstance(actors, int) else actors
    return dataset.map_batches(
        Embed,
        fn_constructor_args=(make_model, reached_from_anywhere(store)),
        fn_constructor_kwargs=keywords,
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=pool(min_size=least, max_size=most),
        **(ray_options or {}),
    )
