"""Kill trainers at random moments and see that nothing is lost: `python -m chaos`."""
