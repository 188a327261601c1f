"""A notebook in a real kernel: it awaits at the top level, shows what it holds, and is quiet."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="comes with nbclient")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
pytest.importorskip("ipykernel", reason="needs ipykernel")
pytest.importorskip("ipywidgets", reason="needs ipywidgets")

ROOT = Path(__file__).parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
CELLS = {
    "start": """
        import time
        from kura_cache_adapters import CachedEmbeddingModel, CacheOptions, CallableEmbeddingModel

        def embed(texts):
            time.sleep(0.15)
            return [[float(len(text)), 1.0] for text in texts]

        source = CallableEmbeddingModel(embed, model_name="lengths-v1")
        options = CacheOptions(progress=True, chunk_size=100)
        model = CachedEmbeddingModel(source, "./cache", options=options)
        texts = [f"text {number}" for number in range(300)]
        more = [*texts, *(f"another {number}" for number in range(300)), "another 0"]
    """,
    "awaited": "vectors = await model.embed(texts)",
    "again": "assert await model.embed(texts) == vectors",
    "plan": "model.plan(more)",
    "sync": "matrix = model.embed_array_sync(more)\nmatrix.shape",
    "stream": "[len(batch) async for batch, _ in model.stream(more, batch=300)]",
    "model": "model",
    "stats": "model.stats",
    "cache": "model.cache",
}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the notebook with its outputs; what its kernel says beside them is nothing."""
    cells = [
        nbformat.v4.new_code_cell(textwrap.dedent(code).strip(), id=name) for name, code in CELLS.items()
    ]
    made = nbformat.v4.new_notebook(cells=cells)
    where = tmp_path_factory.mktemp("notebook")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client = nbclient.NotebookClient(made, timeout=60, resources={"metadata": {"path": where}})
    with (where / "said").open("w") as said:
        client.execute(env=environment, stderr=said, stdout=said)
    lines = (where / "said").read_text().splitlines()
    assert [line for line in lines if not line.startswith("[IPKernelApp]")] == []  # it has no encryption
    return made


def outputs(notebook: Any, name: str) -> list[Any]:
    (cell,) = (each for each in notebook.cells if each.id == name)
    return [each.data for each in cell.outputs]  # what is printed, or raised, has no data


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plan", "hits 300, misses 300, duplicates 1"),
        ("model", "hits 1,201, misses 600, duplicates 1"),
        ("stats", "hits 1,201, misses 600, duplicates 1"),
        ("cache", "hits 1,201, misses 600, duplicates 1"),
    ],
)
def test_what_a_notebook_holds_is_shown_with_a_bar(notebook: Any, name: str, said: str) -> None:
    (shown,) = outputs(notebook, name)
    assert "<svg" in shown["text/html"]
    assert all(each in shown["text/html"] for each in said.split(", "))
    assert shown["text/plain"]


def test_a_call_shows_one_bar_and_what_is_all_hits_none(notebook: Any) -> None:
    (bar,) = outputs(notebook, "awaited")
    assert WIDGET in bar
    bar, shape = outputs(notebook, "sync")
    assert WIDGET in bar
    assert "300 from the cache" in bar["text/plain"]
    assert shape["text/plain"] == "(601, 2)"
    assert outputs(notebook, "again") == []
    assert [each["text/plain"] for each in outputs(notebook, "stream")] == ["[300, 300, 1]"]
    (widgets,) = notebook.metadata.widgets.values()
    bars = [each.state for each in widgets.state.values() if each.model_name == "FloatProgressModel"]
    assert all(each.value == each.max and each.bar_style == "success" for each in bars)
