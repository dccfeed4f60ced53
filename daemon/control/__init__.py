"""The daemon's verbs and views, once, for every edge."""
