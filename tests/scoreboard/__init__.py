"""Which embedding caches are right: a case per way to be wrong, run against every cache."""

from __future__ import annotations

from tests.scoreboard import users_world as users_world

# The cases of the users' world enter themselves when they are imported.
from tests.scoreboard.cases import CASES as CASES
