"""Hard labels that meet the sizes of the clusters: of all such, those with the largest sum of scores."""
