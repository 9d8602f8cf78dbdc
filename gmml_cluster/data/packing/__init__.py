"""`gmml corpus pack`: images, archives or parquet files become shuffled tar shards with indexes."""
