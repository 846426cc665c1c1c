"""Fewer passes over the data, and never a worse step.

Most of what a pass over all rows says about the next step, a sample held in memory says too. What
it cannot say is where its own likelihood differs from that of all rows, and one pass tells exactly
that, to first order. `variance_reduced` puts the two together; `squarem` is for mixtures so large
that no sample says much about them. `objective` states what is maximised.
"""
