"""Mixtures and selections at a glance: small HTML and text, made of plain numbers.

No room above is known here, so that any of them may show what it has. Nothing is loaded, no script
runs, equal values make equal text, and every string of a user's is escaped.
"""
