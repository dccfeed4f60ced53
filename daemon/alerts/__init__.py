"""The one list of alerts, and the webhook it is posted to."""
