"""From slices and their reconstruction to the score: the paper's anomaly map, or the default score."""
