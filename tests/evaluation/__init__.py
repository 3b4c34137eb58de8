"""Tests of the room that says what was kept."""
