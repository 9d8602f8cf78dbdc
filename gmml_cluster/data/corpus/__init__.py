"""What a corpus holds: its shards, their members, indexes with labels and checksums, and the pin of a run."""
