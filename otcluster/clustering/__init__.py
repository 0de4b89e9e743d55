"""Clustering: assignment and centroid update in turn, and where the centroids start."""
