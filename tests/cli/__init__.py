"""Tests of groups of commands."""
