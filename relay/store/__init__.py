"""Every SQL statement of the product. Functions take a connection; the caller owns the transaction."""
