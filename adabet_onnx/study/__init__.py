"""Studies: strategies compared, how firm a choice is, and what else a user should know before trusting one."""
