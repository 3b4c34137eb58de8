"""Tests of the room that reads data."""
