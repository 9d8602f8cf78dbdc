"""A method of a package of its own: MAE whose steps take at least a tenth of a second."""
