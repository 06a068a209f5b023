"""Reports: terminal tables and plots."""
