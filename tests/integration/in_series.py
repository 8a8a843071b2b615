"""A plug-in that puts rounds into series of two, however long they take."""

import simfl.cluster.series

simfl.cluster.series.BRIEF_S = 1000.0
simfl.cluster.series.LONG_S = 100_000.0
simfl.cluster.series.MOST_ROUNDS = 2
