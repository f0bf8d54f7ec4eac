"""Property tests run without a deadline: a busy machine is no counterexample."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "relay", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("relay")
