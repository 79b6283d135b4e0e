"""The tables, one family in each file, and the published numbers."""
