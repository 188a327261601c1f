"""OpenAIServer: an OpenAI-compatible server on loopback, for tests and for examples without a key.

It serves /v1/embeddings in both encodings, and /v1/chat/completions as far as Kura's pipeline needs
them: each answer calls the offered tool, with arguments made from the words of the prompt.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

Fault = Literal[
    "429",
    "500",
    "400",
    "401",
    "late",
    "lists",
    "reversed",
    "short",
    "same index",
    "no index",
    "null index",
    "mixed index",
    "hole",
    "no usage",
    "odd usage",
    "negative usage",
    "null usage",
    "list usage",
    "error body",
    "null data",
    "html",
    "bare list",
]


class OpenAIServer:
    """Serve while the `with` block runs; `faults` are used up one per request, then all is well.

    `embed` makes an array of shape (N, D) from texts; without it, vectors are FakeEmbeddingModel's.
    `count_tokens` says what is billed for a text, its words without; `billed` is the sum. `refuses` tells
    which texts are answered with 400, `most_texts` how many are taken at once, `only_float` that base64 is
    not; `answers_as` is what it calls its model; `says` is a status and an error's message that every
    request is answered with.
    """

    def __init__(self, embed: Callable[[list[str]], Any] | None = None) -> None:
        """Take a free port."""
        self.embed = embed
        self.count_tokens: Callable[[str], int] = lambda text: len(text.split())
        self.refuses: Callable[[str], bool] = lambda _: False
        self.most_texts: int | None = None
        self.only_float = False
        self.answers_as: str | None = None
        self.says: tuple[int, str] | None = None
        self.requests: list[dict[str, Any]] = []
        self.billed = 0
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.faults: list[Fault] = []
        self.at_once = self.most_at_once = 0
        self.lock: threading.Lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.owner = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """The address for OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def texts(self) -> list[str]:
        """All texts whose embeddings were asked for, in the order of asking."""
        return [text for request in self.requests for text in request.get("input", ())]

    @staticmethod
    def lists(texts: list[str], model: str = "text-embedding-3-small", dimensions: int = 8) -> Any:
        """Return the vectors that it serves without `embed`, as lists."""
        return FakeEmbeddingModel(model, dimension=dimensions).lists(texts)

    def __enter__(self) -> Self:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: OpenAIServer = self.server.owner  # type: ignore[attr-defined]
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append(request)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.paths.append(self.path)
            fault = server.faults.pop(0) if server.faults else None
            server.at_once += 1
            server.most_at_once = max(server.at_once, server.most_at_once)
        time.sleep(0.3 if fault == "late" else 0.01)
        with server.lock:
            server.at_once -= 1
        if self.path.partition("?")[0].endswith("/chat/completions"):
            self._send(200, _completion(request))
        elif fault and fault.isdigit():
            self._send(int(fault), _error(f"told to answer {fault}"))
        elif server.says:
            self._send(server.says[0], _error(server.says[1]))
        elif refusal := self._refusal(request):
            self._send(400, _error(refusal))
        else:
            answer = self._answer(request, fault)
            self._send(200, _ODD[fault](answer) if fault in _ODD else answer)

    def _refusal(self, request: dict[str, Any]) -> str | None:
        server: OpenAIServer = self.server.owner  # type: ignore[attr-defined]
        texts, most = request["input"], server.most_texts
        if server.only_float and request.get("encoding_format") == "base64":
            return "base64 encoding is not currently supported"
        if most and len(texts) > most:
            return f"batch size {len(texts)} > maximum allowed batch size {most}"
        return "input cannot be an empty string" if any(map(server.refuses, texts)) else None

    def _answer(self, request: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        server: OpenAIServer = self.server.owner  # type: ignore[attr-defined]
        texts = request["input"]
        model = FakeEmbeddingModel(request["model"], dimension=request.get("dimensions", 8))
        as_base64 = request.get("encoding_format") == "base64" and fault != "lists"
        data = [
            {
                "object": "embedding",
                "index": at,
                "embedding": base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist(),
            }
            for at, vector in enumerate(model.array(texts) if server.embed is None else server.embed(texts))
        ]
        tokens = sum(map(server.count_tokens, texts))
        with server.lock:
            server.billed += tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        model_name = server.answers_as or request["model"]
        return {"object": "list", "data": data, "model": model_name, "usage": usage}

    def _send(self, status: int, body: Any) -> None:
        html = isinstance(body, str)
        content = body.encode() if html else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if html else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        with suppress(ConnectionError):  # the client has been cancelled
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "test"}}


def _with_indices(answer: dict[str, Any], *indices: Any) -> dict[str, Any]:
    """Give the items these indices in turn."""
    items = [{**item, "index": indices[at % len(indices)]} for at, item in enumerate(answer["data"])]
    return {**answer, "data": items}


def _without(field: str, items: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in items.items() if name != field}


def _with_hole(answer: dict[str, Any]) -> dict[str, Any]:
    """Leave the middle item without a vector."""
    items = [*answer["data"]]
    items[len(items) // 2] = {**items[len(items) // 2], "embedding": None}
    return {**answer, "data": items}


# What servers answer that speak OpenAI's language with an accent.
_ODD: dict[str | None, Callable[[dict[str, Any]], Any]] = {
    "reversed": lambda answer: {**answer, "data": answer["data"][::-1]},
    "short": lambda answer: {**answer, "data": answer["data"][:-1]},
    "same index": lambda answer: _with_indices(answer, 0),
    "no index": lambda answer: {**answer, "data": [_without("index", item) for item in answer["data"]]},
    "null index": lambda answer: _with_indices(answer, None),
    "mixed index": lambda answer: _with_indices(answer, 0, None),
    "hole": _with_hole,
    "no usage": lambda answer: _without("usage", answer),
    "odd usage": lambda answer: {**answer, "usage": {"prompt_tokens": "many"}},
    "negative usage": lambda answer: {**answer, "usage": {"prompt_tokens": -1}},
    "null usage": lambda answer: {**answer, "usage": None},
    "list usage": lambda answer: {**answer, "usage": [1, 2]},
    "error body": lambda _: _error("model not loaded"),
    "null data": lambda answer: {**answer, "data": None},
    "html": lambda _: "<html><style>p {}</style><body><p>Welcome to the gateway</p></body></html>",
    "bare list": lambda answer: [item["embedding"] for item in answer["data"]],
}


def _completion(request: dict[str, Any]) -> dict[str, Any]:
    prompt = "\n".join(message["content"] for message in request["messages"])
    name = request["tools"][0]["function"]["name"]
    arguments = _ARGUMENTS.get(name, _summary)(prompt)
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": "call_1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _summary(prompt: str) -> dict[str, Any]:
    """Summarise a conversation by its user's first message."""
    asked = re.search(r"<message>user: (.*?)</message>", prompt, re.DOTALL)
    request = asked[1].strip() if asked else prompt[-200:]
    return {"summary": f"The user asks: {request}", "task": f"The task is to answer: {request}"}


def _cluster(prompt: str) -> dict[str, Any]:
    """Name a cluster by the words that most of its members share."""
    positive = prompt.partition("<contrastive_examples>")[0]
    members = re.findall(r"The user asks: (.*?)'", positive) or re.findall(r"<cluster>(.*?):", positive)
    counts = Counter(word for member in members for word in {*re.findall(r"[a-z]{4,}", member.lower())})
    ranked = sorted(counts, key=lambda word: (-counts[word], word)) or ["anything"]
    words = " ".join(ranked[:3])
    summary = f"The users asked about {words}, {len(members)} times."
    return {"name": f"Help with {words}", "summary": summary, "slug": "_".join(ranked[:3])}


def _candidates(prompt: str) -> dict[str, Any]:
    """Offer half as many groups as there are clusters."""
    names = re.findall(r"<cluster>(.*?):", prompt)
    return {"candidate_cluster_names": [f"Group: {name}" for name in names[::2]] or ["Group"]}


def _label(prompt: str) -> dict[str, Any]:
    """Choose a group by the cluster's name, the same each time."""
    groups = re.findall(r"<higher_level_cluster>(.*?)</higher_level_cluster>", prompt)
    name = re.search(r"Name: (.*)", prompt)
    return {"higher_level_cluster": groups[crc32(name[1].encode() if name else b"") % len(groups)]}


_ARGUMENTS = {
    "GeneratedCluster": _cluster,
    "CandidateClusters": _candidates,
    "ClusterLabel": _label,
}
