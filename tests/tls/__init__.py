"""Transport: TLS and SASL to Kafka, TLS and several hosts to PostgreSQL, made for real."""
