"""This machine as a scheduler: a supervisor starts the ranks of one run and decides after each attempt."""
