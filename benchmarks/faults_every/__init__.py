"""A fault every minute: productive share and wall time beside the arithmetic limit."""
