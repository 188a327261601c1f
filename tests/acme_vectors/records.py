"""What is known of AcmeEmbeddings."""

from __future__ import annotations

from kura_cache_adapters.embedding import Provider

RECORDS = {
    f"{__package__}:AcmeEmbeddings": Provider(
        name="model", decides="size", transport="timeout asked", secrets="token"
    ),
}
