"""Who may ask for what: TLS, API keys, JSON web tokens, client certificates, scopes and rate limits."""
