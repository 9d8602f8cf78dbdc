"""The commands `gmml-submit` and `gmml`. A file a command: it parses, calls, prints."""
