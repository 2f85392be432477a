"""Allocation of traffic: the assignment of units to arms, and the arms' weights by Thompson sampling."""
