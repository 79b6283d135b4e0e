"""The report and the folder that holds it."""
