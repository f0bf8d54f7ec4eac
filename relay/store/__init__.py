"""Every SQL statement of the product. Functions take a connection; the caller ends its work."""
