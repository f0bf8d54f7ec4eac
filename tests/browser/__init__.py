"""The dashboard as people meet it: in a browser. `make test-browser` runs these tests."""
