"""`sweeper advise`: find how BatchNorm and Dropout should be combined in a network, by a designed experiment.

Owns the design (pilot, screening, comparison), its statistics, the answer and its page. In: a configuration,
images and a budget. Out: an `Advice`, with ranking, answers and recommendation.
"""
