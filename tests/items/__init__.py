"""Tests of the room that knows items."""
