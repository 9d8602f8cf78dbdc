"""Passes a run's curves on to trackers, in a process of its own."""
