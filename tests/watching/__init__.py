"""Tests of runs as they go on."""
