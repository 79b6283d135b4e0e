"""Tasks, splits, hyper-parameter search and finetuned classifiers."""
