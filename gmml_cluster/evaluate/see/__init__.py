"""`gmml see`: what sample numbers are, from spec and shards alone."""
