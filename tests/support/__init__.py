"""What the tests stand on: databases, brokers, and the processes that they start."""
