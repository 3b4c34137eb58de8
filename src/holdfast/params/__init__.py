"""What is there? The inventory of a model's parameters, selections of them, and the freeze plan."""
