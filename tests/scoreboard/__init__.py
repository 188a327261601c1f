"""Which embedding caches are right: a case per way to be wrong, run against every cache."""

from __future__ import annotations

# The cases of the users' world enter themselves when they are imported.
from tests.scoreboard.cases import CASES as CASES
from tests.scoreboard.users_world import TEXTS as TEXTS
