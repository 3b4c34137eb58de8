"""Tests of the room `params`."""
