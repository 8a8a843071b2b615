"""Lists, comparisons and reports of runs, finished or in progress.

This package imports torch only to load data, to show what clients hold, or to draw figures.
"""

__all__: list[str] = []
