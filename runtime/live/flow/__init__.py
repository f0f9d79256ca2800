"""From sources to results: a thread for each capture, one to preprocess, one to infer, outputs on the caller's."""
