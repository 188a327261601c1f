"""What we ask pip for: no version with a known advisory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = Path(__file__).parents[2] / "pyproject.toml"

# The package, the first version without it, and the advisory. As of November 2026; add, never remove.
ADVISORIES = [
    ("langchain-core", "0.3.81", "CVE-2025-68664"),  # injection into what dumps() writes
    ("langchain-core", "1.2.11", "CVE-2026-26013"),  # requests to any address
    ("langchain-core", "1.2.22", "CVE-2026-34070"),  # prompts read from any path
    ("langchain-core", "1.3.3", "CVE-2026-44843"),  # load() of what others wrote
    ("langchain-openai", "1.1.14", "CVE-2026-41488"),  # requests to any address
    ("llama-index-core", "0.12.38", "CVE-2025-5302"),  # endless recursion
    ("llama-index-core", "0.12.45", "CVE-2025-7647"),  # a predictable directory in /tmp
    ("llama-index-core", "0.13.0", "CVE-2025-7707"),  # data of NLTK where all may write
    ("numpy", "1.22.0", "CVE-2021-34141"),
    ("pyarrow", "14.0.1", "CVE-2023-47248"),  # pickles run when a file is read
    ("pyarrow", "23.0.1", "CVE-2026-25087"),  # use after free in the reader of IPC files
    ("pydantic", "2.4.0", "CVE-2024-3772"),
    ("tqdm", "4.66.3", "CVE-2024-34062"),  # eval of an argument
    ("torch", "2.6.0", "CVE-2025-32434"),  # code in weights
    ("torch", "2.10.0", "CVE-2026-24747"),  # code in weights
    ("transformers", "4.53.0", "CVE-2025-6921"),
    ("transformers", "5.3.0", "CVE-2026-4372"),  # code in a model
    ("transformers", "5.5.0", "CVE-2026-5241"),  # code in a model
    ("transformers", "5.10.0", "CVE-2026-9856"),  # files written anywhere
]


def floors() -> dict[str, Version]:
    """Read the lowest version that each declared dependency may have."""
    quoted = re.findall(r'"([A-Za-z0-9._-]+(?:\[[a-z,-]+\])?(?:[<>=!~][^"]*)?)"', dependencies())
    found: dict[str, Version] = {}
    for requirement in map(Requirement, quoted):
        lowest = [Version(each.version) for each in requirement.specifier if each.operator in {">=", "=="}]
        found[requirement.name] = max([*lowest, found.get(requirement.name, Version("0"))])
    return found


def dependencies() -> str:
    text = PROJECT.read_text(encoding="utf-8")
    core = text[text.index("\ndependencies = [") : text.index("\n[project.optional-dependencies]")]
    extras = text[text.index("\n[project.optional-dependencies]") : text.index("\n[tool.")]
    return core + re.sub(r"(?m)^[a-z-]+ = ", "", extras)


@pytest.mark.parametrize(("package", "fixed", "advisory"), ADVISORIES)
def test_no_version_with_a_known_advisory_is_allowed(package: str, fixed: str, advisory: str) -> None:
    assert floors()[package] >= Version(fixed), advisory


def test_every_dependency_that_is_installed_with_the_package_has_a_lower_bound() -> None:
    text = PROJECT.read_text(encoding="utf-8")
    users = text[text.index("\ndependencies = [") : text.index("\nall = [")]
    quoted = [Requirement(each) for each in re.findall(r'"([a-z][a-z-]+[<>=][^"]*)"', users)]
    assert {"numpy", "pyarrow", "openai", "datasets", "kura"} <= {each.name for each in quoted}
    assert all(">=" in str(each.specifier) for each in quoted)
