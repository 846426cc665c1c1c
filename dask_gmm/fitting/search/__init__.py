"""Leave a poor optimum before the first read: split-and-merge moves on the sample in memory.

EM ends in the nearest optimum. What is wrong there is mostly local: two components share what one
would explain, and elsewhere one does the work of two. A move takes one component away, by merging
it with another (`removals`) or by leaving its rows to its neighbours, and splits another one in two
(`splits`); EM goes on from there (Ueda, Nakano, Ghahramani & Hinton, "SMEM algorithm for mixture
models", Neural Computation 12(9), 2000).

All moves are ranked by bounds that need no EM of the whole mixture. With r_nG the responsibility of
some components G for row n, and p_G their own mixture, Jensen's inequality gives for any other
mixture q_G in their place

    Σ_n log p'(x_n) − Σ_n log p(x_n)  ≥  Σ_n r_nG [log q_G(x_n) − log p_G(x_n)],

which rows weighted by r_nG are enough for (`parts`). Bounds of disjoint groups add up. So what a
split gains and what a removal costs are found one by one, K splits and a few K removals, and their
sums rank all pairs; EM of the touched components and their neighbours alone raises the same bound
(a partial EM-step, Neal & Hinton 1998); what promises most goes through EM of the whole mixture.

A move counts only if it raises the likelihood of the rows that the search fits and does not lower
that of rows of the sample which it never fits (`ground`). The first read over all rows then decides
between what was found and where the search began (`strategies.set_out`), where variance-reduced EM
fits; what lies close behind goes on beside it, until it is known which ends the higher (`rivals`).

What no sample holds cannot be found on one: a population of a few rows in a million. The first read
keeps rows of the lowest density (`reservoir`), and components for them (`births`) take part in the
next reads, as a rival too.

The search is a pure function of sample, start and settings: no clock and no random number has a say
in it, so that it ends at the same bits on one thread or many, and when it is done again.
"""
