"""Attacks on the labels behind a second cut, by who computes the features there.

With a second cut (`splitdeploy.partitioner.two_cuts`) the last layers run at the edge, and the
cloud computes features, never the result. These attackers want the result all the same.
"""
