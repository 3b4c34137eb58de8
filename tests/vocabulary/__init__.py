"""Tests of the room of new words."""
