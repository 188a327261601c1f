"""CheckpointManagerContract: what every checkpoint manager must do, as a pytest suite."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel

from kura_cache_adapters.errors import CheckpointError
from kura_cache_adapters.protocols import BaseCheckpointManager, SupportsCheckpoints

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Colour(Enum):
    """An enumeration with mixed values."""

    RED = "red"
    BLUE = 2


class Leaf(BaseModel):
    """A model inside another."""

    kind: Literal["leaf"] = "leaf"
    value: int | str | None = None


class Branch(BaseModel):
    """A model that contains its own kind."""

    kind: Literal["branch"] = "branch"
    children: list[Leaf | Branch] = []


class Everything(BaseModel):
    """A model with every kind of field that a pipeline's records have."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    name: str
    alias: str = Field(default="", serialization_alias="otherName", validation_alias="theirName")
    count: int = 0
    huge: int = 2**200
    ratio: float = 0.1
    flag: bool | None = None
    either: int | float | str | bool = 1
    when: datetime = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=5, minutes=30)))
    day: date | None = date(2000, 2, 29)
    span: timedelta = timedelta(days=-1, microseconds=1)
    price: Decimal = Decimal("0.10")
    ident: UUID = UUID(int=7)
    colour: Colour = Colour.BLUE
    tags: set[str] = set()
    pair: tuple[int, str] = (1, "x")
    vector: list[float] | None = None
    mixed: list[int | str | None] = []
    nested: dict[str, list[dict[str, int | None]]] = {}
    tree: Branch = Branch()
    raw: bytes = b""


class Names(RootModel[list[str]]):
    """A model that is a list."""


class Swapped(BaseModel):
    """A model whose aliases are each other's names."""

    left: int = Field(alias="right")
    right: int = Field(alias="left")

    model_config: ClassVar[ConfigDict] = ConfigDict(populate_by_name=True)


class CheckpointManagerContract:
    """Subclass it, and override `open_manager`."""

    @pytest.fixture
    def open_manager(self, tmp_path: Path) -> Callable[..., BaseCheckpointManager]:
        """Return a function of keyword arguments that opens a manager on the same directory."""
        raise NotImplementedError

    @pytest.fixture
    def manager(self, open_manager: Callable[..., BaseCheckpointManager]) -> BaseCheckpointManager:
        """Open the manager once."""
        return open_manager()

    def test_it_has_the_shape_of_a_manager(self, manager: BaseCheckpointManager) -> None:
        assert isinstance(manager, SupportsCheckpoints)
        assert manager.is_enabled()
        assert type(manager).__name__ in repr(manager)

    @pytest.mark.parametrize(
        "records",
        [
            [Everything(name="plain", theirName="by its alias")],  # type: ignore[call-arg]
            [Everything(name=""), Everything(name="ü\0\n\"'", flag=True, extra={"any": [1, None]})],  # type: ignore[call-arg]
            [
                Everything(name="a", vector=[0.1, -0.0, 5e-324], either="1", tags={"x", "y"}),
                Everything(name="b", vector=None, either=1.5, day=None, raw=b"bytes"),
                Everything(name="c", vector=[], either=True, mixed=[1, "1", None]),
            ],
            [Everything(name="t", tree=Branch(children=[Leaf(value="1"), Branch(), Leaf(value=1)]))],
            [Everything(name="n", nested={"a": [{"b": None}, {}], "": []}, unlisted=None)],  # type: ignore[call-arg]
            [Leaf(value=at) for at in range(1500)],
            [Names(["a", "b"]), Names([])],
            [Swapped.model_validate({"right": 1, "left": 2})],
            [Everything(name="e", **{"": "no name", "json": {}}), Everything(name="f")],  # type: ignore[arg-type]
            [Everything(name="j", untyped='{"a": 1}', listed="[]")],  # type: ignore[call-arg]
        ],
        ids=["alias", "extra", "optional", "union", "nested", "many", "root", "swapped", "unnamed", "texts"],
    )
    def test_models_come_back_equal(self, manager: Any, records: list[BaseModel]) -> None:
        manager.save_checkpoint("records", records)
        assert manager.load_checkpoint("records", type(records[0])) == records

    def test_floats_come_back_exactly(self, manager: Any) -> None:
        floats = [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan]
        manager.save_checkpoint("floats", [Everything(name="f", vector=floats)])
        (loaded,) = manager.load_checkpoint("floats", Everything)
        assert list(map(repr, loaded.vector)) == list(map(repr, floats))

    def test_an_empty_checkpoint_is_one(self, manager: Any) -> None:
        manager.save_checkpoint("empty", [])
        assert manager.load_checkpoint("empty", Leaf) == []

    def test_a_model_without_fields_comes_back(self, manager: Any) -> None:
        class Nothing(BaseModel):
            pass

        manager.save_checkpoint("nothing", [Nothing(), Nothing()])
        assert manager.load_checkpoint("nothing", Nothing) == [Nothing(), Nothing()]

    def test_what_is_missing_is_none(self, manager: Any) -> None:
        assert manager.load_checkpoint("missing", Leaf) is None
        assert manager.delete_checkpoint("missing") is False
        assert manager.list_checkpoints() == []

    def test_a_second_save_replaces_the_first(self, manager: Any) -> None:
        manager.save_checkpoint("x", [Leaf(value=1), Leaf(value=2)])
        manager.save_checkpoint("x", [Leaf(value=3)])
        assert manager.load_checkpoint("x", Leaf) == [Leaf(value=3)]
        assert manager.list_checkpoints() == ["x"]

    def test_the_listed_names_load_and_delete(self, manager: Any) -> None:
        names = ["a b", "meta_clusters", "v1.2-ü", "x.jsonl.bak"]
        for name in names:
            manager.save_checkpoint(name, [Leaf(value=name)])
        assert manager.list_checkpoints() == sorted(names)
        for name in manager.list_checkpoints():
            assert manager.load_checkpoint(name, Leaf) == [Leaf(value=name)]
            assert manager.delete_checkpoint(name) is True
            assert manager.load_checkpoint(name, Leaf) is None
        assert manager.list_checkpoints() == []

    def test_the_path_is_a_name_too(self, manager: Any) -> None:
        manager.save_checkpoint("x", [Leaf()])
        path = manager.get_checkpoint_path("x")
        assert path.exists()
        assert manager.load_checkpoint(path.name, Leaf) == [Leaf()]
        assert manager.delete_checkpoint(path.name) is True

    @pytest.mark.parametrize(
        "name",
        [
            *["", ".", "..", "../up", "/absolute", "a/b", "a\\b", "C:x", "nul", "COM1.txt", "a\0b"],
            *["a\nb", "x" * 300, "．．", "a／b", "a∕../b", ".hidden", "trailing.", "\udcff", None],
            *[
                "ü" * 101,
                "a∕b",
                "a⁄b",
                "a﹨b",
                "C꞉x",
                "․․",
                "…",
                "e\u0301",
                "a\u200b",
                "\u202egnp.x",
                "\ufeffx",
            ],
            *[
                "CON",
                "con .txt",
                "COM¹",
                "conin$",
                "trailing ",
                " ",
                ".jsonl",
                "a..parquet",
                "a .jsonl",
                b"x",
                1,
            ],
        ],
    )
    def test_no_name_leaves_the_directory(self, manager: Any, name: str) -> None:
        operations: list[Callable[[], object]] = [
            lambda: manager.save_checkpoint(name, [Leaf()]),
            lambda: manager.load_checkpoint(name, Leaf),
            lambda: manager.delete_checkpoint(name),
            lambda: manager.get_checkpoint_path(name),
        ]
        refusals = set()
        for operation in operations:
            with pytest.raises(ValueError, match="is no name for a checkpoint") as refusal:
                operation()
            refusals.add((type(refusal.value), str(refusal.value)))
        assert len(refusals) == 1
        assert manager.list_checkpoints() == []

    def test_a_failing_save_leaves_the_old_checkpoint(self, manager: Any) -> None:
        manager.save_checkpoint("x", [Leaf(value=1)])
        with pytest.raises(CheckpointError, match=r"item 1.*x"):
            manager.save_checkpoint("x", [Leaf(value=2), Leaf(value="\ud800")])
        assert manager.load_checkpoint("x", Leaf) == [Leaf(value=1)]
        assert manager.list_checkpoints() == ["x"]

    def test_another_models_checkpoint_is_an_error_with_its_path(self, manager: Any) -> None:
        manager.save_checkpoint("x", [Leaf(value=1)])
        with pytest.raises(CheckpointError) as error:
            manager.load_checkpoint("x", Everything)
        assert str(manager.get_checkpoint_path("x")) in str(error.value)

    def test_a_damaged_checkpoint_is_an_error_with_its_path(self, manager: Any) -> None:
        manager.save_checkpoint("x", [Leaf(value=1)])
        path = manager.get_checkpoint_path("x")
        for file in [path] if path.is_file() else path.iterdir():
            file.write_bytes(b"garbage" + file.read_bytes()[:9])
        with pytest.raises(CheckpointError) as error:
            manager.load_checkpoint("x", Leaf)
        assert str(path) in str(error.value)

    def test_disabled_it_does_nothing(self, open_manager: Any, tmp_path: Path) -> None:
        before = set(tmp_path.rglob("*"))
        manager = open_manager(enabled=False)
        manager.save_checkpoint("x", [Leaf()])
        assert manager.load_checkpoint("x", Leaf) is None
        assert manager.list_checkpoints() == []
        assert manager.delete_checkpoint("x") is False
        assert not manager.is_enabled()
        assert set(tmp_path.rglob("*")) == before

    def test_a_removed_directory_is_made_again(self, manager: Any) -> None:
        manager.checkpoint_dir.rmdir()
        assert manager.list_checkpoints() == []
        assert manager.load_checkpoint("x", Leaf) is None
        manager.save_checkpoint("x", [Leaf()])
        assert manager.load_checkpoint("x", Leaf) == [Leaf()]
