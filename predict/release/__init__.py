"""The layout in which the paper's predictions are published: importing and exporting."""
