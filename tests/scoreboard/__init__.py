"""The scoreboard: cases in which caches go wrong, and what came out for each of them."""

from __future__ import annotations

from tests.scoreboard import cases, users_world

CASES = {**cases.CASES, **users_world.CASES}
