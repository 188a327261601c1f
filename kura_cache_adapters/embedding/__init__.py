"""Embedding models to wrap: OpenAI, sentence-transformers, any function; and what is known of others."""

from __future__ import annotations

from kura_cache_adapters._identity.record import Provider
from kura_cache_adapters.embedding.function import CallableEmbeddingModel
from kura_cache_adapters.embedding.openai import OpenAIEmbeddingModel
from kura_cache_adapters.embedding.sentence_transformer import SentenceTransformerEmbeddingModel

__all__ = ["CallableEmbeddingModel", "OpenAIEmbeddingModel", "Provider", "SentenceTransformerEmbeddingModel"]
