"""What is made of runs when they are over, or going on: lists, comparisons, reports.

Nothing here imports torch before data are loaded to show what clients hold, or figures drawn.
"""

__all__: list[str] = []
