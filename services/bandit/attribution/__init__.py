"""Attribution: exposures and events become sums, exactly once in effect."""
