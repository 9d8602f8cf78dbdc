"""The only way to storage: objects created once, put, read by ranges, listed and deleted, in folders and S3."""
