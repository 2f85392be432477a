"""Sets of partitions as text."""

from collections.abc import Iterable


def ranges(indices: Iterable[int]) -> str:
    """Format indices, with each run of neighbours as a range.

    >>> ranges([5, 0, 1, 2])
    '0-2,5'
    """
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
