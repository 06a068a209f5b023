"""Cost: memory and time, predicted from the graph and measured in fresh processes."""
