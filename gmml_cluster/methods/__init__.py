"""Methods: one file each; `build` makes a job's, `reference` evaluates one on given arrays."""
