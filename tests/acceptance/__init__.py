"""The promises of the product, checked from outside on real processes."""
