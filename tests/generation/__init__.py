"""Tests of text from models."""
