"""Errors of these objects that the guide's code catches under names of its own."""

from __future__ import annotations

from holdfast._errors import BadInput


class Misused(BadInput, ValueError):
    """A call out of turn or with arguments that do not fit together; a ValueError as well, as in the guide."""


class NotApplicable(Exception):
    """A metric that says nothing about a data set; its message is the reason."""
