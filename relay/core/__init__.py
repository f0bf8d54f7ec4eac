"""Pure rules: what an event means, where it goes and what its records look like."""
