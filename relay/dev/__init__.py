"""What development, the demo and tests run on: real parts out of Python packages."""
