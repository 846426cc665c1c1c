"""Tests against outside truths: scikit-learn, SciPy, finite differences."""
