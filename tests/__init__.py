"""Tests, in folders that mirror src/tidemill."""
