"""Wire protocols over the HTTP data plane. Each turns requests into rows and results into answers."""
