"""Programs that measure Tidemill beside its ceilings and peers; `make bench` runs them all and writes REPORT.md."""
