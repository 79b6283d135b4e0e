"""The tables, one family a file, and the published numbers beside them."""
