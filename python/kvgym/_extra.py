"""What an adapter says where its package is missing."""

from __future__ import annotations


def missing(module: str, package: str, install: str) -> ImportError:
    """The error of an adapter whose package cannot be imported."""
    return ImportError(f"kvgym.{module}: {package} is not installed: {install}")
