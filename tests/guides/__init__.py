"""Tests of the guides: their names, their blocks as printed, and what their text promises."""
