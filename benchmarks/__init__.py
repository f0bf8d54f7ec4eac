"""Speed as ratios: each benchmark runs the product and its baselines in turn, in one run.

python -m benchmarks receiver|forwarder|snapshot|all
"""
