"""A method before torch is there: its options, its rules, and what it costs. A file a method."""
