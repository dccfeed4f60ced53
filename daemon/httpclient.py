"""HTTP of our own towards others: probes, webhooks, downloads (not built yet)."""
