"""Hyper-parameter search: a search space, a resumable Optuna study, its record in MLflow, and one module per stage."""
