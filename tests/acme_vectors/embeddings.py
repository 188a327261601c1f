"""AcmeEmbeddings: an embedder for LangChain."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings


class AcmeEmbeddings(Embeddings):
    def __init__(self, model: str = "acme-1", *, size: int = 3, token: str, timeout: float = 1.0) -> None:
        self.model = model
        self.size = size
        self.token = token
        self.timeout = timeout
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked.extend(texts)
        return [[float(len(text) + at) for at in range(self.size)] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]
