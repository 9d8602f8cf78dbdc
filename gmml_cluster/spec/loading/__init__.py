"""From YAML to a model, or to all faults with file and line."""
