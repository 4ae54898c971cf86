"""`sweeper advise`: how BatchNorm and Dropout should be combined in a network, answered by a designed experiment.

Owns the design (pilot, screening, comparison), its statistics, the answer and its page. A question enters: a
configuration, images, a budget. An `Advice` leaves: ranking, answers, recommendation.
"""
