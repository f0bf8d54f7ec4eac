"""Two builds on one database while its schema goes up and down."""
