"""When a checkpoint is due, whether there is time and room for it, and which ones stay."""
