"""Selection: from scores to the layers that will be trained."""
