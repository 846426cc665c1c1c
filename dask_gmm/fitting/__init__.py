"""EM: starts, passes, the loop and its outcome."""
