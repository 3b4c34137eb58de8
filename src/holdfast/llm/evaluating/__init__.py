"""The guide's evaluators, thin over the evaluation room: what a model knew, what it still knows, and since when not."""
