"""Networks trained on simulated patterns, judged on measured ones."""
