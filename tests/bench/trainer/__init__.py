"""Our trainer against transformers' Trainer: `PYTHONPATH=tests python -m bench.trainer`."""
