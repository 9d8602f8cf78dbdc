"""Why attempts end, what shows it, and what follows for the next start."""
