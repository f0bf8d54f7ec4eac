"""A durable relay of Stripe events through a PostgreSQL inbox to Kafka."""
