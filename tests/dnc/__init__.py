"""Deep Nearest Centroids."""
