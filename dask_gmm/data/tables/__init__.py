"""Parquet tables: where their files lie, which columns are numbers, how row groups become rows."""
