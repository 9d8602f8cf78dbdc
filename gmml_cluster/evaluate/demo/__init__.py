"""The demo: real digits, a small GMML run, what it learnt, in a few minutes on two cores."""
