"""The dashboard's budgets, measured on the real program in a terminal over a real server."""
