"""Databases as inputs and outputs: PostgreSQL, SQLite, DuckDB, and others through their ADBC drivers."""
