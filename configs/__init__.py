"""Experiments as YAML, their schema, and the error that every stage reports bad input with."""
