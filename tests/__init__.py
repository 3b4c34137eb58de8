"""The tests mirror the rooms of the house; `tests.models` builds the models they share."""
