"""Tests of the mixture room."""
