"""Which parts of an image are hidden: one file a strategy, each of which says what grid it works on."""
