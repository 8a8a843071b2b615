"""Bare loops: what ``bare_loops.py`` runs, by duty.

shared       what processes share: data, weights, sums; the layout of the parameters
loop         a rank's round, and its part of the server's step
one_by_one   plain, fused, tuned
graphed      fused with CUDA graphs
stacked      vmap, batched
rounds       rounds one by one: alone, or by several processes in turns
"""
