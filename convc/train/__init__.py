"""Training: data sets, optimisers and loops over compiled gradient graphs."""
