"""A run as it goes on, in the terminal or on a page of its own; it is only read."""

from holdfast.watching.terminal import watch
from holdfast.watching.view import View, view
from holdfast.watching.web import Server, local

__all__ = ["Server", "View", "local", "view", "watch"]
