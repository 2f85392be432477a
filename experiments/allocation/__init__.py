"""Who gets which arm: the assignment of units, and the weights by Thompson sampling."""
