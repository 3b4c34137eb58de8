"""What is recommended: catalogues of items, their semantic IDs, tasks made from them, and how well they are ranked."""
