"""Methods: one file each; `build` makes a job's, `reference` shows what it computes."""
