"""Experiments as YAML and their schema, and the files, errors and processes of all stages."""
