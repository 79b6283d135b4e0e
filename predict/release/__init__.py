"""Import and export of predictions in the layout in which the paper's are published."""
