"""What is shipped for running relay: image, compose file, Kubernetes, systemd, nginx.

Tools that are not there skip their tests, saying so; RELAY_TEST_DEPLOY=all, as `make check-deploy`
sets it, makes that a failure instead.
"""
