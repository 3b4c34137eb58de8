"""Tests of the room `dial`."""
