"""Servers of all kinds of stores, each a process (or thread) of this machine, for fixtures."""
