"""The report of an analysis and its folder."""
